"""Templates: tokens and nothing else; a broken one is named with file and line, and fails only whom it renders."""

from pathlib import Path

import pytest

from grayctl.errors import TemplateError
from grayctl.model.catalog import Catalog, Registration
from grayctl.model.tokens import Address, Expression, Note, Seconds, Variable, Word
from grayctl.model.tokens import Path as PathToken
from grayctl.policy.resolve import Limits, resolve
from grayctl.render.fileset import Dialect, Renderer, read_header
from grayctl.render.quoting import quote
from grayctl.render.templates import SERVICE, Templates
from grayctl.settings import Settings

PLAN = resolve(
    Catalog(
        services={
            name: (Registration(service=name, id="a", address="10.0.0.1", port=80),) for name in ("shop", "other")
        }
    ),
    {},
    Settings(),
    Limits(),
)


def override(tmp_path: Path, name: str, text: str) -> Templates:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return Templates(str(tmp_path))


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (Word("shop.gray"), "shop.gray"),
        (Variable("gray_shop"), "$gray_shop"),
        (Expression("$request_uri"), "$request_uri"),
        (Address("::1", 80), "[::1]:80"),
        (PathToken("/a b/c.conf"), '"/a b/c.conf"'),
        (Seconds(9.2), "10s"),
        (Note("a\nb"), "a\\x0ab"),
        (5, "5"),
    ],
)
def test_how_a_token_is_written(token: object, text: str) -> None:
    assert quote(token) == text


@pytest.mark.parametrize("value", ["text", True, 1.5, None, b"x", ["x"]])
def test_what_is_no_token_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="tokens and integers only"):
        quote(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Word("a b"),
        lambda: Word("a;"),
        lambda: Word(""),
        lambda: Variable("A"),
        lambda: Expression("$a; }"),
        lambda: Expression('"'),
        lambda: Address("10.0.0.1", 0),
        lambda: Address("fe80::1%eth0", 80),
        lambda: Address("::0001", 80),
        lambda: PathToken("relative"),
        lambda: PathToken('/a"b'),
        lambda: PathToken("/a\nb"),
        lambda: Seconds(-1),
    ],
)
def test_a_token_that_could_do_harm_cannot_be_made(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=r"is no|not in canonical form|appear to be"):
        make()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ service.text }}", "tokens and integers only"),
        ("\n{{ nothing }}", "'nothing' is undefined"),
        ("{{ 1 // 0 }}", "zero"),
    ],
)
def test_a_template_that_fails_on_data_fails_one_service(tmp_path: Path, text: str, message: str) -> None:
    templates = override(tmp_path, "services/shop.conf.j2", text)
    objects, failed = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert set(objects) == {"other"}
    assert message in str(failed["shop"])
    line = text.count("\n") + 1
    assert f"services/shop.conf.j2:{line}: " in str(failed["shop"])


@pytest.mark.parametrize(
    "text",
    ["{% for x in %}", "{{ a"]
    + [f"{{{{ service|{name} }}}}" for name in ("safe", "escape", "e", "forceescape", "tojson", "urlize", "xmlattr")],
)
def test_a_template_that_does_not_compile_is_named(tmp_path: Path, text: str) -> None:
    templates = override(tmp_path, "service.conf.j2", "\n" + text)
    assert f"{tmp_path}/service.conf.j2:2: " in str(templates.broken[SERVICE])
    objects, failed = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert (set(objects), set(failed)) == (set(), {"shop", "other"})


@pytest.mark.parametrize(
    ("part", "place", "message"),
    [
        ("\n\n{{ nothing }}", "part.j2:3", "'nothing' is undefined"),
        ("\n{{ service.text }}", "part.j2:2", "a template may print tokens and integers only"),
        ("\n\n\n{% for %}", "part.j2:4", "Expected an expression"),
        (None, "services/shop.conf.j2:2", "there is no template part.j2"),
    ],
)
def test_a_mistake_in_an_included_file_is_named_where_it_stands(
    tmp_path: Path, part: str | None, place: str, message: str
) -> None:
    if part is not None:
        (tmp_path / "part.j2").write_text(part, encoding="utf-8")
    templates = override(tmp_path, "services/shop.conf.j2", '\n{% include "part.j2" %}')
    _, failed = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert str(failed["shop"]).startswith(f"{tmp_path}/{place}: {message}")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{% include "part.j2" %}', "in shop"),
        ('{% from "macros.j2" import note %}{{ note(variable) }}', "[$gray_shop]"),
        ("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}<{{ service }}>{% endcall %}", "<shop>"),
        ("{% for one in upstreams %}{{ loop.index }}{% endfor %}", "1"),
        ("{% set x %}a{% endset %}{{ x }}", "a"),
        ('{% extends "base.j2" %}{% block a %}{{ service }}{% endblock %}', "-shop-"),
        ('{% set includes = 0 %}{% include "stream.conf.j2" %}.', "0."),
    ],
)
def test_macros_includes_and_blocks_work(tmp_path: Path, text: str, written: str) -> None:
    (tmp_path / "part.j2").write_text("in {{ service }}", encoding="utf-8")
    (tmp_path / "macros.j2").write_text("{% macro note(x) %}[{{ x }}]{% endmacro %}", encoding="utf-8")
    (tmp_path / "base.j2").write_text("-{% block a %}{% endblock %}-", encoding="utf-8")
    templates = override(tmp_path, "services/shop.conf.j2", text)
    objects, failed = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert not failed
    assert objects["shop"].content.split("\n", 1)[1] == written


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "service.conf.j2").write_bytes(b"\xff")
    assert "service.conf.j2: cannot read the template" in str(Templates(str(tmp_path)).broken[SERVICE])


def test_a_missing_directory_fails_everything_and_falls_back_to_nothing(tmp_path: Path) -> None:
    """The shipped templates in its place would serve what nobody asked for."""
    templates = Templates(str(tmp_path / "gone"))
    assert {str(error) for error in templates.broken.values()} == {
        f"templates_dir: {tmp_path}/gone is no directory; what stands is served on"
    }
    _, failed = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert failed.keys() == PLAN.services.keys()


def test_the_entry_template_belongs_to_all(tmp_path: Path) -> None:
    templates = override(tmp_path, "http.conf.j2", "{{ nothing }}")
    renderer = Renderer(templates, Settings(), Dialect())
    with pytest.raises(TemplateError, match=r"http\.conf"):
        renderer.file_set(renderer.objects(PLAN)[0])


def test_templates_are_overridden_one_by_one(tmp_path: Path) -> None:
    templates = override(tmp_path, "services/shop.conf.j2", "# mine {{ variable }}\n")
    objects, _ = Renderer(templates, Settings(), Dialect()).objects(PLAN)
    assert objects["shop"].content.endswith("# mine $gray_shop\n")
    assert "upstream other.gray" in objects["other"].content
    assert "proxy_http_version 1.1;" in objects["shop"].snippet


def test_an_object_says_what_it_serves_in_lines_that_nginx_can_read() -> None:
    rows = tuple(
        Registration(service="shop", id=f"i{n}", address=f"10.1.{n // 250}.{n % 250}", port=80) for n in range(2000)
    )
    plan = resolve(Catalog(services={"shop": rows}), {}, Settings(), Limits())
    objects, _ = Renderer(Templates(), Settings(), Dialect()).objects(plan)
    content = objects["shop"].content
    assert max(len(line.encode()) for line in content.split("\n")) < 4096
    header = read_header(content)
    assert header is not None
    assert len(header.servers()) == 2000
    assert read_header("upstream x {}") is None


def test_one_change_renders_one_object() -> None:
    renderer = Renderer(Templates(), Settings(), Dialect())
    before, _ = renderer.objects(PLAN)
    changed = Catalog(
        services={
            "shop": (Registration(service="shop", id="a", address="10.0.0.9", port=80),),
            "other": (Registration(service="other", id="a", address="10.0.0.1", port=80),),
        }
    )
    after, _ = renderer.objects(resolve(changed, {}, Settings(), Limits(), PLAN))
    assert after["other"] is before["other"]
    assert after["shop"] is not before["shop"]


def test_the_order_of_objects_never_shows_and_a_snippet_is_part_of_the_digest(tmp_path: Path) -> None:
    renderer = Renderer(Templates(), Settings(), Dialect())
    objects, _ = renderer.objects(PLAN)
    backwards = dict(reversed(list(objects.items())))
    assert renderer.file_set(backwards) == renderer.file_set(objects)
    own = Renderer(override(tmp_path, "snippet.conf.j2", "# mine\n"), Settings(), Dialect())
    assert own.file_set(own.objects(PLAN)[0]).digest != renderer.file_set(objects).digest
