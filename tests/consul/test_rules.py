"""What the watcher makes of answers that a real Consul gives rarely: index rules, garbage, refusals."""

import asyncio
from typing import Any

import pytest
import structlog
from aiohttp import web

from grayctl.consul.client import ConsulClient
from grayctl.consul.wake import Wake
from grayctl.consul.watch import Watcher
from grayctl.settings import Settings
from tests.support.scripted import Handler, Scripted, answer, instance, script, scripted
from tests.support.watching import Watching, make_settings, watching

SHOP = "/v1/health/service/shop"


def watch_shop(fake: Scripted) -> Settings:
    return make_settings(fake.address, "shop")


def weights(watch: Watching) -> list[str]:
    """The weight in each published catalog, oldest first."""
    return [dict(wake.catalog.services["shop"][0].meta)["w"] for wake in watch.wakes if wake.catalog.services["shop"]]


def weighing(weight: str, index: object, status: int = 200) -> web.Response:
    return answer([instance("shop", Meta={"w": weight})], index, status)


def indexes(fake: Scripted) -> list[str | None]:
    """The index of each question about the shop."""
    return [query.get("index") for query in fake.queries(SHOP)]


async def test_nothing_is_published_before_everything_has_answered() -> None:
    async with scripted() as fake:
        gate = asyncio.Event()

        async def late(_: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response(status=404, headers={"X-Consul-Index": "1"})

        fake.handlers["/v1/kv/grayctl/drains/"] = late
        fake.handlers[SHOP] = script(weighing("1", 5), weighing("2", 6))
        async with watching(watch_shop(fake)) as watch:
            await watch.until(lambda: len(indexes(fake)) == 3, "the shop to have answered twice")
            assert not watch.wakes
            gate.set()
            await watch.complete()
            assert weights(watch) == ["2"]


async def test_an_index_that_goes_backwards_is_dropped_and_its_answer_not_believed() -> None:
    async with scripted() as fake:
        fake.handlers[SHOP] = script(weighing("1", 100), weighing("old", 50), weighing("2", 60), weighing("3", 61))
        async with watching(watch_shop(fake)) as watch:
            await watch.until(lambda: "3" in weights(watch), "the newest weight")
            assert weights(watch) == ["1", "2", "3"]
            assert indexes(fake)[:4] == [None, "100", None, "60"]
            assert not watch.recorder.errors, "that Consul's index goes down is no fault"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            lambda: web.Response(status=500, text="No cluster leader", headers={"X-Consul-Index": "1"}), id="500"
        ),
        pytest.param(lambda: web.Response(status=429, headers={"X-Consul-Index": "7"}), id="429"),
        pytest.param(lambda: web.Response(status=403, headers={"X-Consul-Index": "7"}), id="403"),
        pytest.param(lambda: web.Response(status=301, headers={"Location": "/", "X-Consul-Index": "7"}), id="301"),
        pytest.param(lambda: web.Response(text="[{", headers={"X-Consul-Index": "7"}), id="truncated"),
        pytest.param(lambda: web.Response(text="<html>", headers={"X-Consul-Index": "7"}), id="garbage"),
        pytest.param(lambda: weighing("bad", 0), id="index 0"),
        pytest.param(lambda: weighing("bad", "x"), id="index x"),
        pytest.param(lambda: web.json_response([instance("shop", Meta={"w": "bad"})]), id="no index"),
    ],
)
async def test_a_fault_drops_the_index_and_changes_nothing(fault: object) -> None:
    """Whatever index a fault carries, the next question has none; what was published stands."""
    async with scripted() as fake:
        fake.handlers[SHOP] = script(weighing("1", 6), fault, weighing("2", 3), weighing("3", 4))  # type: ignore[arg-type]  # -- pytest's parameters are untyped
        with structlog.testing.capture_logs() as logs:
            async with watching(watch_shop(fake)) as watch:
                await watch.until(lambda: "3" in weights(watch), "the newest weight")
                assert weights(watch) == ["1", "2", "3"]
                assert indexes(fake)[:4] == [None, "6", None, "3"]
                assert len(watch.recorder.errors) == 1
                assert watch.watcher.state.connected
                assert watch.watcher.state.last_error == str(watch.recorder.errors[0])
        events = [line["event"] for line in logs if line["log_level"] != "debug"]
        assert events in (
            ["consul_connected", "consul_lost", "consul_regained"],
            ["consul_connected", "consul_denied", "consul_granted"],
        )


async def test_an_empty_answer_counts_after_a_second_one() -> None:
    async with scripted() as fake:
        fake.handlers[SHOP] = script(
            weighing("1", 5),
            answer([], 6),  # suddenly
            weighing("2", 7),  # the second read knows better
            answer([], 8),
            answer([], 8),  # confirmed
        )
        async with watching(watch_shop(fake)) as watch:
            await watch.until(lambda: watch.wakes and not watch.service("shop"), "the loss to be believed")
            assert weights(watch) == ["1", "2"]
            assert indexes(fake)[:5] == [None, "5", None, "7", None]
            assert any(path == "/v1/internal/acl/authorize" for path, _ in fake.asked)


async def test_an_empty_answer_of_a_token_without_the_right_never_counts() -> None:
    async with scripted() as fake:
        fake.handlers[SHOP] = script(weighing("1", 5), *[answer([], 6) for _ in range(6)])
        refused = web.json_response

        async def authorize(request: web.Request) -> web.StreamResponse:
            return refused([one | {"Allow": one["Resource"] != "node"} for one in await request.json()])

        fake.handlers["/v1/internal/acl/authorize"] = authorize
        async with watching(watch_shop(fake)) as watch:
            await watch.until(lambda: watch.watcher.state.denied == ("health shop",), "the denial")
            assert watch.ids("shop") == ["shop-1"]
            assert "node 'n1'" in watch.watcher.state.last_error


async def test_an_agent_that_answers_early_with_the_same_index_is_not_stormed() -> None:
    """A stopping agent, or a liar: the same answer at once, for ever."""
    async with scripted() as fake:

        async def same(_: web.Request) -> web.StreamResponse:
            return weighing("1", 5)

        fake.handlers[SHOP] = same
        loop = asyncio.get_running_loop()
        async with watching(watch_shop(fake)) as watch:
            await watch.complete()
            start = loop.time()
            before = len(indexes(fake))
            await watch.until(lambda: len(indexes(fake)) >= before + 6, "six more questions")
            assert loop.time() - start > 0.5, "each pause is longer than the last"
            assert len(watch.wakes) == 1


async def test_output_alone_publishes_nothing() -> None:
    async with scripted() as fake:
        noisy = [
            instance("shop") | {"Checks": [{"Node": "n1", "CheckID": "c", "Status": "passing", "Output": str(n)}]}
            for n in range(5)
        ]
        fake.handlers[SHOP] = script(*[answer([one], 10 + number) for number, one in enumerate(noisy)])
        async with watching(watch_shop(fake)) as watch:
            await watch.until(lambda: "14" in indexes(fake), "all five answers")
            assert len(watch.wakes) == 1


async def test_the_index_moves_on_only_after_publishing() -> None:
    """The question with the new index is not asked before the value that came with it was published."""
    async with scripted() as fake:
        complete = asyncio.Event()

        async def health(request: web.Request) -> web.StreamResponse:
            if "index" not in request.query:
                return weighing("1", 5)
            await (complete.wait() if request.query["index"] == "5" else asyncio.sleep(3600))
            return weighing("2", 6)

        fake.handlers[SHOP] = health
        seen: list[tuple[str, list[str | None]]] = []
        async with watching(watch_shop(fake)) as watch:
            published = watch.recorder.published

            def publish(wake: Wake) -> None:
                seen.append((wake.cause, list(indexes(fake))))
                published(wake)

            watch.recorder.published = publish  # type: ignore[method-assign]  # -- looks at the moment of publishing
            await watch.complete()
            complete.set()
            await watch.until(lambda: "2" in weights(watch), "the second weight")
            assert all("6" not in asked for _, asked in seen)
            await watch.until(lambda: indexes(fake)[-1] == "6", "the next question")


async def test_an_exception_from_publish_is_not_swallowed() -> None:
    def broken(_: Wake) -> None:
        raise RuntimeError("a defect")

    async with scripted() as fake:
        settings = make_settings(fake.address, "shop")
        async with ConsulClient(settings.consul, connections=20) as client:
            with pytest.raises(ExceptionGroup) as caught:
                await asyncio.wait_for(Watcher(client, settings, broken).run(), 20)
        assert "a defect" in str(caught.value.exceptions)


async def test_services_are_found_by_name_glob_and_tag_and_followed_when_the_tag_goes() -> None:
    async with scripted() as fake:
        listed = {"shop-a": [], "web": ["grayctl.enable=true", "x"], "other": ["y"], "consul": []}
        untagged = listed | {"web": []}
        fake.handlers["/v1/catalog/services"] = script(
            answer(listed, 3), answer(untagged, 4), answer({"consul": []}, 5)
        )
        for name in ("shop-a", "other", "exact"):
            fake.handlers[f"/v1/health/service/{name}"] = script(answer([instance(name)], 2))
        fake.handlers["/v1/health/service/web"] = script(answer([instance("web")], 2), answer([instance("web", 2)], 3))
        async with watching(make_settings(fake.address, "shop-*", "exact")) as watch:
            await watch.complete()
            assert set(watch.wakes[-1].catalog.services) == {"shop-a", "web", "exact"}
            await watch.until(lambda: watch.ids("web") == ["web-2"], "a change of the service without its tag")
            assert watch.ids("shop-a") == ["shop-a-1"], "Consul lists it no more, but it was not confirmed empty"


async def test_a_service_that_vanished_leaves_the_catalog_and_returns() -> None:
    async with scripted() as fake:
        gone, back = asyncio.Event(), asyncio.Event()

        async def listed(request: web.Request) -> web.StreamResponse:
            match request.query.get("index"):
                case None:
                    return answer({}, 4) if gone.is_set() else answer({"shop-a": []}, 3)
                case "3":
                    await gone.wait()
                    return answer({}, 4)
                case "4":
                    await back.wait()
                    return answer({"shop-a": []}, 5)
            await asyncio.sleep(3600)
            raise AssertionError

        async def health(request: web.Request) -> web.StreamResponse:
            index = request.query.get("index")
            if index is None:
                return answer([] if gone.is_set() and not back.is_set() else [instance("shop-a")], 7)
            if index == "7" and not gone.is_set():
                await gone.wait()
                return answer([], 8)
            await asyncio.sleep(3600)
            raise AssertionError

        fake.handlers["/v1/catalog/services"] = listed
        fake.handlers["/v1/health/service/shop-a"] = health
        async with watching(make_settings(fake.address, "shop-*")) as watch:
            await watch.complete()
            polls = watch.watcher.state.long_polls
            gone.set()
            await watch.until(lambda: watch.watcher.state.services_watched == 0, "it to be let go")
            await watch.until(lambda: watch.wakes[-1].catalog.services == {}, "its absence to be published")
            assert watch.watcher.state.long_polls == polls - 1
            back.set()
            await watch.until(lambda: watch.ids("shop-a"), "it to return")
            assert watch.watcher.state.long_polls == polls


async def test_a_lost_wake_is_found_by_the_full_reread() -> None:
    """The safety net: the long poll hangs for ever, the content has changed."""
    async with scripted() as fake:
        changed = asyncio.Event()

        async def deaf(request: web.Request) -> web.StreamResponse:
            if "index" in request.query:
                await asyncio.sleep(3600)
            return weighing("2" if changed.is_set() else "1", 5)

        fake.handlers[SHOP] = deaf
        async with watching(make_settings(fake.address, "shop", watch={"full_reread": 0.3})) as watch:
            await watch.complete()
            changed.set()
            await watch.until(lambda: weights(watch) == ["1", "2"], "the re-read")


async def test_one_cold_service_that_is_denied_holds_up_no_other() -> None:
    """Two long polls for services, nine services: the denied one is tried again, the others are followed."""
    async with scripted() as fake:
        names = [f"shop-{number}" for number in range(9)]
        moved = asyncio.Event()
        state: dict[str, Any] = {"index": 3, "weight": "1", "denied": False}

        async def listed(request: web.Request) -> web.StreamResponse:
            if request.query.get("index") == str(state["index"]):
                await moved.wait()
                moved.clear()
            return answer({name: [] for name in names}, state["index"])

        def health(name: str) -> Handler:
            async def handler(request: web.Request) -> web.StreamResponse:
                if name == names[-1] and state["denied"]:
                    return web.Response(status=403)
                if "index" in request.query:
                    await asyncio.sleep(3600)
                value = [] if "tag" in request.query else [instance(name, Meta={"w": state["weight"]})]
                return answer(value, state["index"])

            return handler

        fake.handlers |= {"/v1/catalog/services": listed}
        fake.handlers |= {f"/v1/health/service/{name}": health(name) for name in names}
        async with watching(make_settings(fake.address, "shop-*", watch={"max_long_polls": 12})) as watch:
            await watch.complete()
            assert watch.watcher.state.cold == 7

            def weighs(name: str) -> str:
                return dict(watch.service(name)[0].meta)["w"]

            state |= {"index": 4, "weight": "2", "denied": True}
            moved.set()
            await watch.until(lambda: all(weighs(name) == "2" for name in names[3:-1]), "all cold ones but one")
            await watch.until(lambda: watch.watcher.state.denied == (f"health {names[-1]}",), "the denial")
            state |= {"index": 5, "weight": "3"}
            moved.set()
            await watch.until(lambda: all(weighs(name) == "3" for name in names[3:-1]), "them again")
            assert weighs(names[-1]) == "1"
            state |= {"denied": False}
            await watch.until(lambda: weighs(names[-1]) == "3", "the one that was denied, without any new wake")
            assert watch.watcher.state.denied == ()


async def test_an_answer_about_a_service_that_was_let_go_is_ignored() -> None:
    async with scripted() as fake, watching(make_settings(fake.address, "shop")) as watch:
        await watch.complete()
        watch.watcher._heard(watch.watcher._service_poll("let-go"), "let-go")
        assert len(watch.wakes) == 1
