// One instance of the shop as a Gin service: the same as ../shop/backend.py.
//
//	go run . -version v2 -weight 5 -port 9001
//
// It registers itself in Consul with its version, its weight and an HTTP check, and registers again where Consul
// lost it. On SIGTERM it deregisters first and goes on answering for -drain seconds, so that every nginx has let go of it
// before it ends: no request is lost.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
)

const (
	registerAgain = 5 * time.Second
	consulTimeout = 5 * time.Second
)

type options struct {
	name, id, version, address, consul string
	weight, port                       int
	drain, delay                       float64 // seconds
	failRate                           float64
}

// registration is this instance's entry in Consul.
type registration struct {
	options options
	client  *http.Client

	mutex  sync.Mutex // of what follows, and of the order of writes
	weight int
	gone   bool
}

// keep registers, and again whenever Consul does not know us any more: it came late, or lost its state.
func (r *registration) keep(ctx context.Context) {
	ticker := time.NewTicker(registerAgain)
	defer ticker.Stop()
	for {
		known, err := r.isKnown()
		if err == nil && !known {
			err = r.put(nil)
		}
		if err != nil {
			log.Printf("%s: Consul does not answer, trying again: %v", r.options.id, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// put registers, with a new weight where one is given.
func (r *registration) put(weight *int) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.gone {
		return nil
	}
	if weight != nil {
		r.weight = *weight
	}
	o := r.options
	body, err := json.Marshal(map[string]any{
		"ID":      o.id,
		"Name":    o.name,
		"Address": o.address,
		"Port":    o.port,
		"Tags":    []string{"grayctl.enable=true"},
		"Meta":    map[string]string{"version": o.version, "weight": strconv.Itoa(r.weight)},
		"Check": map[string]string{
			"CheckID":  o.id + ":http",
			"Name":     "GET /healthz",
			"HTTP":     fmt.Sprintf("http://%s/healthz", net.JoinHostPort(o.address, strconv.Itoa(o.port))),
			"Interval": "1s",
			"Timeout":  "1s",
			// It listens already; and registering anew must not take it out until the next check.
			"Status":                         "passing",
			"DeregisterCriticalServiceAfter": "10m",
		},
	})
	if err != nil {
		return err
	}
	_, err = r.call(http.MethodPut, "/v1/agent/service/register", body)
	return err
}

func (r *registration) remove() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.gone = true
	_, err := r.call(http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(r.options.id), nil)
	return err
}

func (r *registration) isKnown() (bool, error) {
	status, err := r.call(http.MethodGet, "/v1/agent/service/"+url.PathEscape(r.options.id), nil)
	if status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

func (r *registration) call(method, path string, body []byte) (int, error) {
	request, err := http.NewRequest(method, r.options.consul+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if token := os.Getenv("CONSUL_HTTP_TOKEN"); token != "" {
		request.Header.Set("X-Consul-Token", token)
	}
	response, err := r.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return response.StatusCode, nil
}

func routes(o options, r *registration) http.Handler {
	var failing atomic.Bool
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(gin.Recovery())
	engine.GET("/healthz", func(c *gin.Context) {
		status := http.StatusOK
		if failing.Load() {
			status = http.StatusServiceUnavailable
		}
		c.JSON(status, gin.H{"healthy": status == http.StatusOK})
	})
	engine.PUT("/weight", func(c *gin.Context) {
		weight, err := strconv.Atoi(text(c))
		if err != nil || weight < 0 {
			c.JSON(http.StatusBadRequest, gin.H{"error": "PUT /weight takes a number"})
			return
		}
		if err := r.put(&weight); err != nil {
			c.JSON(http.StatusBadGateway, gin.H{"error": "Consul did not take the new weight: " + err.Error()})
			return
		}
		c.JSON(http.StatusOK, gin.H{"weight": weight})
	})
	engine.PUT("/health", func(c *gin.Context) {
		switch text(c) {
		case "passing":
			failing.Store(false)
		case "failing":
			failing.Store(true)
		default:
			c.JSON(http.StatusBadRequest, gin.H{"error": "PUT /health takes passing or failing"})
			return
		}
		c.JSON(http.StatusOK, gin.H{"healthy": !failing.Load()})
	})
	engine.NoRoute(func(c *gin.Context) {
		time.Sleep(seconds(o.delay))
		status := http.StatusOK
		if rand.Float64() < o.failRate {
			status = http.StatusInternalServerError
		}
		c.JSON(status, gin.H{
			"service":  o.name,
			"version":  o.version,
			"instance": o.id,
			"host":     c.Request.Host,
			"path":     c.Request.RequestURI,
		})
	})
	return engine
}

func text(c *gin.Context) string {
	content, err := io.ReadAll(io.LimitReader(c.Request.Body, 64))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

func seconds(figure float64) time.Duration {
	return time.Duration(figure * float64(time.Second))
}

func arguments() options {
	var o options
	consul := os.Getenv("CONSUL_HTTP_ADDR")
	if consul == "" {
		consul = "127.0.0.1:8500"
	}
	if !strings.Contains(consul, "://") {
		consul = "http://" + consul
	}
	flag.StringVar(&o.name, "name", "shop", "the service's name in Consul")
	flag.StringVar(&o.id, "id", "", "the instance's id (default NAME-VERSION-PORT)")
	flag.StringVar(&o.version, "version", "", "such as v1")
	flag.IntVar(&o.weight, "weight", 10, "its weight in nginx")
	flag.StringVar(&o.address, "address", "127.0.0.1", "where it listens and is reached")
	flag.IntVar(&o.port, "port", 0, "0 takes a free one")
	flag.StringVar(&o.consul, "consul", consul, "the agent")
	flag.Float64Var(&o.drain, "drain", 2, "seconds between deregistering and ending")
	flag.Float64Var(&o.failRate, "fail-rate", 0, "share of requests answered 500, 0 to 1")
	flag.Float64Var(&o.delay, "delay", 0, "seconds that each answer takes longer")
	flag.Parse()
	if o.version == "" {
		fmt.Fprintln(flag.CommandLine.Output(), "-version is required")
		flag.Usage()
		os.Exit(2)
	}
	return o
}

func main() {
	o := arguments()
	listener, err := net.Listen("tcp", net.JoinHostPort(o.address, strconv.Itoa(o.port)))
	if err != nil {
		log.Fatal(err)
	}
	o.port = listener.Addr().(*net.TCPAddr).Port
	if o.id == "" {
		o.id = fmt.Sprintf("%s-%s-%d", o.name, o.version, o.port)
	}
	// Consul is near: a proxy of this environment is not for it.
	client := &http.Client{Timeout: consulTimeout, Transport: &http.Transport{Proxy: nil}}
	entry := &registration{options: o, client: client, weight: o.weight}
	server := &http.Server{Handler: routes(o, entry), ReadHeaderTimeout: 10 * time.Second}

	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Fatal(err)
		}
	}()
	go entry.keep(ended)
	log.Printf("%s: listening on %s", o.id, listener.Addr())

	<-ended.Done()
	if err := entry.remove(); err != nil {
		log.Printf("%s: could not deregister, Consul's check will notice: %v", o.id, err)
	}
	time.Sleep(seconds(o.drain))
	closing, cancel := context.WithTimeout(context.Background(), consulTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		log.Printf("%s: connections were still open: %v", o.id, err)
	}
}
