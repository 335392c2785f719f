"""The Jinja2 templates: shipped ones, overridden file by file, compiled once."""

import re
from pathlib import Path as FilePath

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, Template, TemplateSyntaxError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.exceptions import TemplateNotFound

from grayctl.errors import TemplateError
from grayctl.render.quoting import finalize

HTTP, SERVICE, STREAM = "http.conf.j2", "service.conf.j2", "stream.conf.j2"
SNIPPET, PASS = "snippet.conf.j2", "pass.conf.j2"
SHARED = (HTTP, SERVICE, STREAM, SNIPPET, PASS)
OWN_FOLDER = "services"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*\Z")
# These turn a bare string into text that `finalize` would take for the template's own.
_FORBIDDEN_FILTERS = ("safe", "escape", "e", "forceescape", "tojson", "urlize", "xmlattr")


def shipped_templates() -> FilePath:
    """Where the templates of this installation are: inside the package in a wheel, beside it in a checkout."""
    inside = FilePath(__file__).resolve().parents[1] / "templates"
    return inside if inside.is_dir() else FilePath(__file__).resolve().parents[2] / "templates"


class Templates:
    """Compiled templates; a broken one is remembered with its message and fails only whom it renders.

    Args:
        override: a directory whose files take the place of shipped ones; empty for none.
    """

    def __init__(self, override: str = "") -> None:
        self._override = FilePath(override) if override else None
        folders = [self._override] if self._override else []
        environment = Environment(
            loader=ChoiceLoader([FileSystemLoader(folder) for folder in [*folders, shipped_templates()]]),
            undefined=StrictUndefined,
            finalize=finalize,
            # Not for HTML: it makes Jinja2 mark what templates themselves produced, see quoting.finalize.
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )
        for name in _FORBIDDEN_FILTERS:
            del environment.filters[name]
        self._environment = environment
        # without its directory nothing is rendered: the shipped templates would serve what nobody asked for
        lost = self._override is not None and not self._override.is_dir()
        missing = TemplateError(f"templates_dir: {override} is no directory; what stands is served on")
        self._compiled: dict[str, Template | TemplateError] = {
            name: missing if lost else self._compile(name) for name in SHARED
        }
        for path in sorted(self._override.glob(f"{OWN_FOLDER}/*.conf.j2")) if self._override else []:
            name = f"{OWN_FOLDER}/{path.name}"
            self._compiled[name] = self._compile(name)

    @property
    def broken(self) -> dict[str, TemplateError]:
        """Template name -> why it does not compile."""
        return {name: one for name, one in self._compiled.items() if isinstance(one, TemplateError)}

    def for_service(self, service: str) -> str:
        """The name of the template of one service: its own, or the shared one."""
        own = f"{OWN_FOLDER}/{service}.conf.j2"
        return own if _FILE_NAME.match(service) and own in self._compiled else SERVICE

    def render(self, name: str, **variables: object) -> str:
        """Fill one template.

        Raises:
            TemplateError: with file, line and what failed.
        """
        template = self._compiled[name]
        if isinstance(template, TemplateError):
            raise template
        try:
            return template.render(variables)
        except TemplateNotFound as error:
            raise TemplateError(f"{self._place(template, error)}: there is no template {error}") from error
        # A template is foreign code: whatever it raises (a division by zero too) is its own fault, and named as such.
        except Exception as error:
            raise TemplateError(f"{self._place(template, error)}: {error}") from error

    def _compile(self, name: str) -> Template | TemplateError:
        try:
            return self._environment.get_template(name)
        except TemplateSyntaxError as error:
            return TemplateError(f"{error.filename or name}:{error.lineno}: {error.message}")
        except TemplateNotFound as error:
            return TemplateError(
                f"{name}: there is no template {error}; looked in {self._override}, {shipped_templates()}"
            )
        except (JinjaError, OSError, UnicodeDecodeError) as error:
            return TemplateError(f"{name}: cannot read the template: {error}")

    @staticmethod
    def _place(template: Template, error: Exception) -> str:
        """`file:line` of the innermost template frame of a traceback."""
        place, trace = template.filename or template.name or "?", error.__traceback__
        line = 0
        while trace is not None:
            filename = trace.tb_frame.f_code.co_filename
            if filename.endswith(".j2"):
                place, line = filename, trace.tb_lineno
            trace = trace.tb_next
        return f"{place}:{line}" if line else place
