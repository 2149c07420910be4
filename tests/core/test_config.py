"""Configuration: which layer wins, where each value says it came from, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from accel.core import config
from accel.core.errors import InputError, TransferError
from accel.core.settings import SCHEMA, SECTIONS, parse_size

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty working directory, and no overrides left behind."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config.clear_overrides()
    yield folder
    config.clear_overrides()


def user_file(home: Path, data: Any) -> Path:
    path = home / "config.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def origin(name: str) -> str:
    return str(config.load().setting(name).origin)


def test_every_setting_has_a_default_that_it_would_accept_itself() -> None:
    assert {key.partition(".")[0] for key in SCHEMA} == set(SECTIONS)
    for key in SCHEMA.values():
        assert key.help.endswith(".")
        assert config.load().get(key.name) == key.default
        assert key.parse(key.default, config.load().setting(key.name).origin) == key.default


def test_the_five_layers(project: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "performance.parallel_requests"
    assert (config.load().get(name), origin(name)) == (8, "default")

    (project / "pyproject.toml").write_text("[tool.ipfs_accelerate.performance]\nparallel_requests = 2\n")
    assert (config.load().get(name), origin(name)) == (2, f"project ({project / 'pyproject.toml'})")

    (project / "config.toml").write_text("[performance]\nparallel_requests = 3\n")
    assert (config.load().get(name), origin(name)) == (3, f"project ({project / 'config.toml'})")

    (project / "ipfs_accelerate.json").write_text('{"performance": {"parallel_requests": 4}}')
    assert (config.load().get(name), origin(name)) == (4, f"project ({project / 'ipfs_accelerate.json'})")

    (isolated_home / "config.toml").write_text("[performance]\nparallel_requests = 5\n")
    assert (config.load().get(name), origin(name)) == (5, f"user ({isolated_home / 'config.toml'})")

    path = user_file(isolated_home, {"performance": {"parallel_requests": 6}})
    assert (config.load().get(name), origin(name)) == (6, f"user ({path})")

    monkeypatch.setenv("IPFS_ACCELERATE_PERFORMANCE_PARALLEL_REQUESTS", "7")
    variable = "environment (IPFS_ACCELERATE_PERFORMANCE_PARALLEL_REQUESTS)"
    assert (config.load().get(name), origin(name)) == (7, variable)

    config.set_overrides([f"{name}=9"])
    assert (config.load().get(name), origin(name)) == (9, "command line (--set)")

    config.override({name: 10}, "--parallel")
    assert (config.load().get(name), origin(name)) == (10, "command line (--parallel)")


def test_layers_merge_value_by_value(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_file(isolated_home, {"hardware": {"precision": "bf16", "prefer_cuda": True}, "ipfs": {"timeout": 5}})
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_PRECISION", "fp16")
    now = config.load()
    assert [now.get(f"hardware.{k}") for k in ("precision", "prefer_cuda", "allow_openvino")] == ["fp16", True, True]
    assert now.get("ipfs.timeout") == 5.0


def test_get_notices_a_changed_environment_folder_and_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.get("hardware.precision") == "auto"
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_PRECISION", "int8")
    assert config.get("hardware.precision") == "int8"
    monkeypatch.delenv("IPFS_ACCELERATE_HARDWARE_PRECISION")
    other = tmp_path / "other"
    other.mkdir()
    (other / "ipfs_accelerate.json").write_text('{"hardware": {"precision": "fp16"}}')
    monkeypatch.chdir(other)
    assert config.get("hardware.precision") == "fp16"
    config.override({"hardware.precision": "bf16"}, "--precision")
    assert config.get("hardware.precision") == "bf16"


ACCEPTED = [
    ("hardware.prefer_cuda", "yes", True, True, True),
    ("hardware.allow_openvino", "0", False, False, False),
    ("hardware.precision", "BF16", "bf16", "bf16", "bf16"),
    ("hardware.memory_limit", "8GB", 8 * 10**9, "8GiB", 8 * 2**30),
    ("hardware.memory_limit", "none", None, None, None),
    ("hardware.browser", "/usr/bin/chromium", "/usr/bin/chromium", "firefox-esr", "firefox-esr"),
    ("ipfs.timeout", "2min", 120.0, 0.5, 0.5),
    ("ipfs.timeout", "500ms", 0.5, "1h", 3600.0),
    ("ipfs.local_node", "http://127.0.0.1:5001/", "http://127.0.0.1:5001", "/dns4/node/tcp/5001/https", None),
    ("ipfs.local_node", "null", None, "/ip6/::1/tcp/5001", "/ip6/::1/tcp/5001"),
    ("performance.cache_size", "1.5 G", 3 * 2**29, 1000, 1000),
    ("performance.prepared_size", "512MB", 512 * 10**6, None, None),
    ("performance.parallel_requests", "256", 256, 1, 1),
    ("performance.price_per_hour", "cpu=0.08, cuda:0=2.5", ("cpu=0.08", "cuda:0=2.5"), {"all": 1}, ("all=1",)),
    ("performance.price_per_hour", "cpu=1,cpu=.5", ("cpu=.5",), ["openvino=3"], ("openvino=3",)),
    ("performance.enable_profiling", "on", True, False, False),
    ("logging.level", "Debug", "debug", "error", "error"),
    ("logging.file", "/var/log/accel.log", "/var/log/accel.log", None, None),
]


@pytest.mark.parametrize(("name", "text", "from_text", "data", "from_data"), ACCEPTED)
def test_values_are_read_from_text_and_from_json(
    name: str, text: str, from_text: Any, data: Any, from_data: Any, isolated_home: Path
) -> None:
    section, key = name.split(".")
    user_file(isolated_home, {section: {key: data}})
    value = config.load().get(name)
    assert value == (data if from_data is None else from_data)
    assert type(value) is type(data if from_data is None else from_data)
    config.set_overrides([f"{name}={text}"])
    assert config.load().get(name) == from_text
    assert type(config.load().get(name)) is type(from_text)


def test_gateways_are_a_list_or_a_text_with_commas(isolated_home: Path) -> None:
    user_file(
        isolated_home, {"ipfs": {"gateway": ["https://a.example/", "http://127.0.0.1:8080", "https://a.example"]}}
    )
    assert config.load().get("ipfs.gateway") == ("https://a.example", "http://127.0.0.1:8080")
    config.set_overrides(["ipfs.gateway=https://b.example, https://c.example"])
    assert config.load().get("ipfs.gateway") == ("https://b.example", "https://c.example")
    config.set_overrides(["ipfs.gateway="])
    assert config.load().get("ipfs.gateway") == ()


REFUSED = [
    ("hardware", "prefer_cuda", "yes"),  # a text is not a truth value in JSON
    ("hardware", "prefer_cuda", 1),
    ("hardware", "precision", "fp64"),
    ("hardware", "precision", None),
    ("hardware", "memory_limit", "8XB"),
    ("hardware", "memory_limit", 0),
    ("hardware", "memory_limit", -5),
    ("hardware", "memory_limit", True),
    ("hardware", "memory_limit", 1.5),
    ("hardware", "browser", ["firefox"]),
    ("ipfs", "gateway", 5),
    ("ipfs", "gateway", ["ftp://example.org"]),
    ("ipfs", "gateway", ["http://example.org"]),  # not on this machine: has to speak https
    ("ipfs", "gateway", ["http://127.0.0.1.example.org"]),
    ("ipfs", "gateway", ["https://"]),
    ("ipfs", "gateway", ["https://a:b:c"]),
    ("ipfs", "local_node", "/ip4/127.0.0.1/udp/5001"),
    ("ipfs", "local_node", "/ip4/127.0.0.1/tcp/99999"),
    ("ipfs", "local_node", "127.0.0.1:5001"),
    ("ipfs", "timeout", 0),
    ("ipfs", "timeout", -1),
    ("ipfs", "timeout", "soon"),
    ("ipfs", "timeout", True),
    ("performance", "parallel_requests", 0),
    ("performance", "parallel_requests", 257),
    ("performance", "parallel_requests", 4.0),
    ("performance", "parallel_requests", "4"),
    ("performance", "enable_profiling", "true"),
    ("logging", "level", "verbose"),
    ("logging", "level", 10),
    ("logging", "file", ""),
    ("logging", "file", 3),
]


@pytest.mark.parametrize(("section", "key", "value"), REFUSED)
def test_a_wrong_value_names_file_key_and_what_is_allowed(
    section: str, key: str, value: Any, isolated_home: Path
) -> None:
    path = user_file(isolated_home, {section: {key: value}})
    with pytest.raises(InputError) as caught:
        config.load()
    assert str(path) in caught.value.message
    assert f"{section}.{key}" in caught.value.message
    assert SCHEMA[f"{section}.{key}"].allowed in caught.value.hint
    assert caught.value.details["key"] == f"{section}.{key}"


def test_a_wrong_variable_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_IPFS_TIMEOUT", "soon")
    with pytest.raises(InputError, match=r"IPFS_ACCELERATE_IPFS_TIMEOUT.*ipfs\.timeout"):
        config.load()


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"hardware": {"precison": "fp32"}}, "hardware.precison", "did you mean hardware.precision?"),
        ({"hardware": {"timeout": 3}}, "hardware.timeout", "did you mean ipfs.timeout?"),
        ({"hardware": {"colour": 3}}, "hardware.colour", "known: hardware.prefer_cuda"),
        ({"hardwre": {"precision": "fp32"}}, "hardwre", "did you mean hardware?"),
        ({"zoo": {}}, "zoo", "known: hardware, ipfs, performance, logging"),
        ({"precision": "fp32"}, "precision", "did you mean hardware.precision?"),
        ({"hardware.precision": "fp32"}, "inside of its section", '{"hardware": {"precision": ...}}'),
        ({"hardware": "fp32"}, "hardware has to hold an object", "known: hardware.prefer_cuda"),
        (["hardware"], "has to hold an object", "hardware"),
        ('{"hardware": {"precision": "fp32"}', "not valid JSON", "correct it"),
        ("", "not valid JSON", "correct it"),
        ('{"hardware": {"precision": "fp32", "precision": "fp16"}}', "there twice", "keep one"),
        ("[" * 100_000, "not valid JSON", "correct it"),
    ],
)
def test_a_wrong_file_is_refused_with_a_way_on(data: Any, message: str, hint: str, isolated_home: Path) -> None:
    path = user_file(isolated_home, data)
    with pytest.raises(InputError) as caught:
        config.load()
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_file_that_is_no_text_is_refused(isolated_home: Path) -> None:
    (isolated_home / "config.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="not valid JSON"):
        config.load()
    (isolated_home / "config.json").unlink()
    (isolated_home / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        config.load()


def test_a_byte_order_mark_does_no_harm(isolated_home: Path) -> None:
    (isolated_home / "config.json").write_bytes(b'\xef\xbb\xbf{"ipfs": {"timeout": 7}}')
    assert config.load().get("ipfs.timeout") == 7


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("IPFS_ACCELERATE_HARDWARE_PRECISON", "did you mean hardware.precision?"),
        ("IPFS_ACCELERATE_HARDWRE_PRECISION", "did you mean IPFS_ACCELERATE_HARDWARE_PRECISION?"),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "fp32")
    with pytest.raises(InputError, match=variable) as caught:
        config.load()
    assert caught.value.hint == hint


def test_empty_and_foreign_variables_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPFS_ACCELERATE_HARDWARE_PRECISION", "")
    monkeypatch.setenv("IPFS_ACCELERATE_SOMETHING_ELSE", "1")
    assert origin("hardware.precision") == "default"


@pytest.mark.parametrize(
    "pair", ["hardware.precision", "hardware.precison=fp32", "=fp32", "hardware.precision=fp64", ""]
)
def test_a_wrong_override_is_refused_and_changes_nothing(pair: str) -> None:
    with pytest.raises(InputError, match="--set"):
        config.set_overrides([pair])
    assert origin("hardware.precision") == "default"


def test_overrides_are_taken_all_or_not_at_all() -> None:
    with pytest.raises(InputError):
        config.override({"hardware.precision": "fp32", "ipfs.timeout": -1}, "--x")
    assert origin("hardware.precision") == "default"


FOREIGN = [
    '[build]\ntarget = "x"\n[logging]\nlevel = "loud"\n',
    'title = "a site"\nbaseURL = "https://example.org"\n',
    "this is no TOML at all",
    "",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_the_config_toml_of_another_program_is_left_alone(text: str, project: Path) -> None:
    (project / "config.toml").write_text(text)
    source = next(s for s in config.load().sources if s.path.name == "config.toml" and s.layer == "project")
    assert source.exists
    assert not source.used
    assert source.note


@pytest.mark.parametrize(
    "text",
    [
        '[hardwre]\nprecision = "fp32"\n',
        '[logging]\nlevl = "info"\n',
        "[hardware]\nprecision = fp32\n",
        "ipfs.timout = 1\n",
    ],
)
def test_mistakes_in_our_own_config_toml_are_errors(text: str, project: Path) -> None:
    (project / "config.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        config.load()
    assert str(project / "config.toml") in caught.value.message


def test_a_pyproject_without_our_table_is_not_even_parsed(project: Path) -> None:
    (project / "pyproject.toml").write_text("[broken\n")
    assert not any(s.used for s in config.load().sources)
    (project / "pyproject.toml").write_text("[broken\n[tool.ipfs_accelerate]\n")
    with pytest.raises(InputError, match=r"pyproject\.toml: is not valid TOML"):
        config.load()


def test_inside_a_repository_the_nearest_folder_with_a_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    deep = repository / "package" / "module"
    deep.mkdir(parents=True)
    (tmp_path / "ipfs_accelerate.json").write_text('{"ipfs": {"timeout": 1}}')  # outside: never counts
    (repository / "ipfs_accelerate.json").write_text('{"ipfs": {"timeout": 2}}')
    monkeypatch.chdir(deep)
    assert origin("ipfs.timeout") == "default"  # no repository yet, so only the working directory counts
    (repository / ".git").mkdir()
    assert config.load().get("ipfs.timeout") == 2
    (deep.parent / "ipfs_accelerate.json").write_text('{"ipfs": {"timeout": 3}}')
    assert config.load().get("ipfs.timeout") == 3
    (deep.parent / "ipfs_accelerate.json").unlink()
    (repository / "ipfs_accelerate.json").unlink()
    assert origin("ipfs.timeout") == "default"


def test_a_project_may_not_name_programs_nor_write_elsewhere(project: Path, tmp_path: Path) -> None:
    path = project / "ipfs_accelerate.json"
    for setting in (
        {"hardware": {"browser": "./evil.sh"}},
        {"logging": {"file": "/tmp/elsewhere.log"}},
        {"logging": {"file": "../../elsewhere.log"}},
    ):
        path.write_text(json.dumps(setting))
        with pytest.raises(InputError, match="a project's file may"):
            config.load()
    (project / "link").symlink_to(tmp_path)
    path.write_text('{"logging": {"file": "link/elsewhere.log"}}')
    with pytest.raises(InputError, match="inside the project"):
        config.load()
    path.write_text('{"logging": {"file": "logs/accel.log"}}')
    assert config.load().get("logging.file") == str(project / "logs" / "accel.log")


def test_relative_paths_start_at_their_file_or_at_the_working_directory(project: Path, isolated_home: Path) -> None:
    user_file(isolated_home, {"logging": {"file": "accel.log"}})
    assert config.load().get("logging.file") == str(isolated_home / "accel.log")
    config.set_overrides(["logging.file=here.log"])
    assert config.load().get("logging.file") == str(project / "here.log")


def test_a_removed_working_directory_is_no_obstacle(project: Path) -> None:
    project.rmdir()
    assert config.get("hardware.precision") == "auto"


def test_set_user_writes_what_load_reads(isolated_home: Path) -> None:
    config.set_user("hardware.memory_limit", "8GB")
    config.set_user("ipfs.gateway", "https://a.example,https://b.example")
    config.set_user("hardware.browser", "null")
    data = json.loads((isolated_home / "config.json").read_text())
    assert data == {
        "hardware": {"memory_limit": 8 * 10**9, "browser": None},
        "ipfs": {"gateway": ["https://a.example", "https://b.example"]},
    }
    assert config.get("ipfs.gateway") == ("https://a.example", "https://b.example")
    assert origin("hardware.memory_limit") == f"user ({isolated_home / 'config.json'})"


def test_set_user_refuses_what_is_wrong_and_keeps_the_file(isolated_home: Path) -> None:
    path = user_file(isolated_home, "{not json")
    with pytest.raises(InputError, match="not valid JSON"):
        config.set_user("hardware.precision", "fp32")
    assert path.read_text() == "{not json"
    path.write_text('{"ipfs": {"timeout": 9}}')
    for name, text in (("hardware.precision", "fp64"), ("hardware.precison", "fp32")):
        with pytest.raises(InputError):
            config.set_user(name, text)
    assert json.loads(path.read_text()) == {"ipfs": {"timeout": 9}}


def test_set_user_follows_a_link(isolated_home: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "accel.json"
    target.parent.mkdir()
    target.write_text("{}")
    (isolated_home / "config.json").symlink_to(target)
    config.set_user("hardware.precision", "fp16")
    assert (isolated_home / "config.json").is_symlink()
    assert json.loads(target.read_text()) == {"hardware": {"precision": "fp16"}}


def test_set_user_in_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IPFS_ACCELERATE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(TransferError) as caught:
        config.set_user("hardware.precision", "fp16")
    assert caught.value.hint


def test_writers_at_once_lose_nothing(isolated_home: Path) -> None:
    values = {
        "hardware.precision": "bf16",
        "ipfs.timeout": "11",
        "performance.parallel_requests": "12",
        "performance.cache_size": "13MB",
        "logging.level": "info",
        "hardware.prefer_cuda": "true",
    }
    code = "import sys; from accel.core import config\nfor _ in range(20): config.set_user(*sys.argv[1:])"
    children = [
        subprocess.Popen([sys.executable, "-c", code, *pair], cwd=ROOT, stderr=subprocess.PIPE)
        for pair in values.items()
    ]
    assert [child.communicate(timeout=60)[1] for child in children] == [b""] * len(values)
    assert {s.key.name for s in config.load().sources[0].values.values()} == set(values)
    assert sorted(path.name for path in isolated_home.iterdir()) == [".config.lock", "config.json"]


def test_loading_is_quick_and_imports_no_toml_reader() -> None:
    code = (
        "import sys, time, json\nfrom accel.core import config\n"
        "best = 1.0\n"
        "for _ in range(20):\n"
        " started = time.perf_counter(); config.load(); best = min(best, time.perf_counter() - started)\n"
        "print(best, sorted({'tomli', 'difflib', 'logging', 'typer'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(out.split()[0]) < 0.002
    assert out.split(maxsplit=1)[1].strip() == "[]"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("1", 1), ("8GB", 8 * 10**9), ("8 gb", 8 * 10**9), ("8GiB", 8 * 2**30), ("8G", 8 * 2**30), (123, 123)),
        *(("1.5k", 1536), (".5MB", 500_000), ("2TiB", 2 * 2**40), ("10B", 10), ("9007199254740993", 2**53 + 1)),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "0", "1e9", "8 G B", "8GBs", "٣GB", "99999999999999P", None, True, 1.5, "0.1"]
)
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(InputError):
        parse_size(text)


def test_time_is_not_spent_on_a_huge_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(deep)
    started = time.perf_counter()
    config.load()
    assert time.perf_counter() - started < 0.5
