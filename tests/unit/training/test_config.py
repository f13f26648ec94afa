import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import ConfigError
from training import config as configs

from toy.config import RunConfig


def error_of(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        configs.load(RunConfig, file, overrides)
    return str(raised.value)


def changed(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    return file


def test_load_reads_every_section(config_file: Path, data_file: Path) -> None:
    config = configs.load(RunConfig, config_file)
    assert config.model_dump() == {
        "seed": 0,
        "tracking": "none",
        "data": {"source": "bars", "cache_dir": str(data_file.parent), "workers": 0},
        "model": {
            "pixels": 16,
            "classes": 4,
            "width": 8,
            "depth": 1,
        },
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "accumulation_steps": 1,
            "lr": 0.001,
            "weight_decay": 0.01,
            "warmup_share": 0.1,
            "clip_norm": 1.0,
            "mix": 0.0,
            "noise": 0.0,
            "precision": "float32",
            "compile": False,
            "deterministic": True,
            "snapshot_every": 3,
            "parallelism": "ddp",
            "device": "cpu",
            "patience": None,
            "keep": "last",
        },
    }


def test_override_changes_one_key(config_file: Path) -> None:
    before, after = (
        configs.load(RunConfig, config_file),
        configs.load(RunConfig, config_file, ["train.epochs=7"]),
    )
    assert after.train.epochs == 7
    assert after == before.model_copy(
        update={"train": before.train.model_copy(update={"epochs": 7})}
    )


def test_last_override_of_a_key_wins(config_file: Path) -> None:
    assert configs.load(RunConfig, config_file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "lr"),
    [
        pytest.param("1e-3", 0.001, id="exponent_without_point"),
        pytest.param("1", 1.0, id="whole_number"),
        pytest.param("0.25", 0.25, id="decimal"),
    ],
)
def test_override_accepts_common_number_formats(config_file: Path, text: str, lr: float) -> None:
    assert configs.load(RunConfig, config_file, [f"train.lr={text}"]).train.lr == lr


def test_configuration_is_read_only(config: RunConfig) -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1


@pytest.mark.parametrize(
    ("override", "explanation"),
    [
        pytest.param("train.lr=-1", "train.lr: must be > 0, got -1", id="negative_lr"),
        pytest.param("train.lr=0", "train.lr: must be > 0, got 0", id="zero_lr"),
        pytest.param("seed=-1", "seed: must be >= 0, got -1", id="negative_seed"),
        pytest.param("train.warmup_share=1", "train.warmup_share: must be < 1, got 1", id="warmup"),
        pytest.param("model.classes=1", "model.classes: must be > 1, got 1", id="one_class"),
        pytest.param(
            "train.device=gpu",
            "train.device: must be 'auto', 'cpu' or 'cuda', got 'gpu'",
            id="device",
        ),
        pytest.param("model.width=65537", "model.width: must be <= 65536, got 65537", id="width"),
        pytest.param("model.depth=1025", "model.depth: must be <= 1024, got 1025", id="depth"),
        pytest.param(
            "data=null",
            "data: must be a section with keys, got None",
            id="null_for_a_section",
        ),
        pytest.param("data.workers=-1", "data.workers: must be >= 0, got -1", id="workers"),
        pytest.param(
            "train.accumulation_steps=0",
            "train.accumulation_steps: must be > 0, got 0",
            id="accumulation",
        ),
        pytest.param(
            "train.snapshot_every=0", "train.snapshot_every: must be > 0, got 0", id="snapshots"
        ),
        pytest.param(
            "train.precision=float16",
            "train.precision: must be 'float32' or 'bfloat16', got 'float16'",
            id="precision",
        ),
        pytest.param(
            "train.parallelism=dp",
            "train.parallelism: must be 'ddp' or 'fsdp', got 'dp'",
            id="parallelism",
        ),
        pytest.param(
            "model.widthh=16",
            "model.widthh: unknown key; did you mean width?",
            id="typo_in_section",
        ),
        pytest.param(
            "xyz=1",
            "xyz: unknown key; known keys: seed, tracking, data, train, model",
            id="unlike_any_key",
        ),
        pytest.param(
            "foo.bar=1",
            "foo: unknown key; known keys: seed, tracking, data, train, model",
            id="new_section",
        ),
    ],
)
def test_error_in_an_override_names_the_key(
    config_file: Path, override: str, explanation: str
) -> None:
    assert error_of(config_file, override) == f"--set: {explanation}"


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("train.lr=.nan", id="nan"),
        pytest.param("train.lr=nan", id="nan_as_word"),
        pytest.param("train.lr=.inf", id="infinity"),
        pytest.param("train.lr=", id="empty_value"),
        pytest.param("train.epochs=3.5", id="half_an_epoch"),
        pytest.param("train.epochs=true", id="boolean_for_a_number"),
        pytest.param("train.epochs='3'", id="quoted_number"),
        pytest.param("data=null", id="section_emptied"),
        pytest.param("seed=4294967296", id="seed_beyond_32_bits"),
        pytest.param("data.cache_dir=''", id="empty_folder"),
        pytest.param("data.source=''", id="no_source"),
        pytest.param("data.workers=1.5", id="one_and_a_half_workers"),
        pytest.param("train.compile=1", id="number_for_a_boolean"),
        pytest.param("train.deterministic='true'", id="quoted_boolean"),
    ],
)
def test_value_of_the_wrong_type_is_refused(config_file: Path, override: str) -> None:
    key = override.partition("=")[0]
    assert error_of(config_file, override).startswith(f"--set: {key}: ")


@pytest.mark.parametrize(
    ("override", "explanation"),
    [
        pytest.param("train.lr", "expected KEY=VALUE", id="no_equals_sign"),
        pytest.param("=3", "expected KEY=VALUE", id="no_key"),
        pytest.param("train.lr=[", "not valid YAML", id="half_a_list"),
        pytest.param("train.lr=2024-13-45", "not valid YAML", id="month_13"),
        pytest.param("train.lr.x=1", "lr is a value, not a section", id="below_a_value"),
    ],
)
def test_malformed_override_is_quoted_in_the_error(
    config_file: Path, override: str, explanation: str
) -> None:
    error = error_of(config_file, override)
    assert error.startswith(f"--set {override}: ")
    assert explanation in error


def test_error_in_a_file_names_the_file(config_file: Path) -> None:
    changed(config_file, "lr: 1.0e-3", "lr: -1")
    assert error_of(config_file) == f"{config_file}: train.lr: must be > 0, got -1"


def test_error_in_a_file_is_not_blamed_on_another_override(config_file: Path) -> None:
    changed(config_file, "lr: 1.0e-3", "lr: -1")
    assert error_of(config_file, "train.epochs=3").startswith(f"{config_file}: train.lr: ")


def test_misspelt_key_in_a_file_gets_a_suggestion(config_file: Path) -> None:
    # The correct key is missing as well, but a missing-key error would not show the typo.
    changed(config_file, "  width: 8", "  widthh: 8")
    assert error_of(config_file) == (
        f"{config_file}: model.widthh: unknown key; did you mean width? (and 1 more)"
    )


def test_missing_key_is_named(config_file: Path) -> None:
    changed(config_file, "seed: 0\n", "")
    assert error_of(config_file) == f"{config_file}: seed: missing; every key must be given"


def test_further_errors_are_counted(config_file: Path) -> None:
    error = error_of(config_file, "train.lr=-1", "train.epochs=0", "seed=-1")
    assert error == "--set: seed: must be >= 0, got -1 (and 2 more)"


@pytest.mark.parametrize(
    ("content", "explanation"),
    [
        pytest.param(b"seed: [1", "line 1: not valid YAML", id="half_a_list"),
        pytest.param(b"seed: 0\nseed: 1\n", 'line 2: not valid YAML: found duplicate key "seed"',
                     id="key_given_twice"),
        pytest.param(b"a: 1\n---\nb: 2\n", "line 2: not valid YAML", id="two_documents"),
        pytest.param(b"seed: !!python/object:os.system x", "line 1: not valid YAML", id="object"),
        pytest.param(b"seed: 2024-13-45", "not valid YAML", id="month_13"),
        pytest.param(b"seed: !!int five", "not valid YAML", id="int_tag_on_a_word"),
        pytest.param(b"seed: !!bool x", "not valid YAML", id="bool_tag_on_a_word"),
        pytest.param(b"seed: " + b"9" * 5000, "not valid YAML", id="number_too_long"),
        pytest.param(b"[" * 500, "not valid YAML", id="nested_too_deep"),
        pytest.param(b"\xff\xfe\x00", "not valid YAML", id="not_text"),
        pytest.param(b"seed: \xe9", "not valid YAML", id="latin_1"),
        pytest.param(b"", "found nothing", id="empty"),
        pytest.param(b"- seed", "found a list", id="list"),
        pytest.param(b"seed", "found a str", id="word"),
        pytest.param(b"1: 2", "has the keys 1; expected seed, tracking", id="key_is_a_number"),
    ],
)  # fmt: skip
def test_file_that_is_not_a_configuration_is_refused(
    tmp_path: Path, content: bytes, explanation: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    error = error_of(file)
    assert error.startswith(f"{file}: ")
    assert explanation in error


def test_missing_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "absent.yaml"
    assert error_of(file) == (
        f"{file}: cannot be read (No such file or directory); the configurations are in configs/"
    )


def test_folder_is_not_accepted_as_a_file(tmp_path: Path) -> None:
    assert error_of(tmp_path).startswith(f"{tmp_path}: cannot be read (Is a directory)")


def test_every_number_has_a_range() -> None:
    sections = json.loads(configs.json_schema(RunConfig))
    keys = [
        (name, key)
        for section in (sections, *sections["$defs"].values())
        for name, key in section["properties"].items()
        if key.get("type") in {"integer", "number"}
    ]
    assert len(keys) > 12
    for name, key in keys:
        assert key.keys() & {"minimum", "exclusiveMinimum"}, name
        assert key.keys() & {"maximum", "exclusiveMaximum"}, name


@pytest.mark.parametrize("tree", [None, [], "seed", 3])
def test_tree_that_is_not_a_mapping_is_refused(tree: object) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint\.pt: top level: "):
        configs.validate(RunConfig, tree, where="checkpoint.pt")


@st.composite
def run_configs(draw: st.DrawFn) -> RunConfig:
    sizes = st.integers(1, 64)
    # Includes characters that are special in YAML.
    folders = st.text("aZ07 /._-+:#'\"{}[],&*!|>%@`~\\äλ🦊\n\t", min_size=1)
    return configs.validate(
        RunConfig,
        {
            "seed": draw(st.integers(0, 2**32 - 1)),
            "tracking": draw(st.sampled_from(["none", "mlflow"])),
            "data": {
                "source": draw(folders),
                "cache_dir": draw(folders),
                "workers": draw(st.integers(0, 8)),
            },
            "model": {
                "pixels": draw(sizes),
                "classes": draw(st.integers(2, 1000)),
                "width": draw(sizes),
                "depth": draw(sizes),
            },
            "train": {
                "epochs": draw(sizes),
                "batch_size": draw(sizes),
                "accumulation_steps": draw(sizes),
                "lr": draw(st.floats(0, 1, exclude_min=True)),
                "weight_decay": draw(st.floats(0, 10)),
                "warmup_share": draw(st.floats(0, 1, exclude_max=True)),
                "clip_norm": draw(st.floats(0, 1e9, exclude_min=True)),
                "mix": draw(st.floats(0, 1)),
                "noise": draw(st.floats(0, 10)),
                "precision": draw(st.sampled_from(["float32", "bfloat16"])),
                "compile": draw(st.booleans()),
                "deterministic": draw(st.booleans()),
                "snapshot_every": draw(sizes),
                "parallelism": draw(st.sampled_from(["ddp", "fsdp"])),
                "device": draw(st.sampled_from(["auto", "cpu", "cuda"])),
            },
        },
        where="generated",
    )


@settings(derandomize=True, deadline=None, max_examples=25)
@given(config=run_configs())
def test_dumped_configuration_loads_back_equal(
    config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("dumped") / "config.yaml"
    file.write_bytes(configs.dump(config))
    assert configs.load(RunConfig, file) == config


def test_dump_keeps_the_order_of_the_sections(config: RunConfig) -> None:
    lines = io.TextIOWrapper(io.BytesIO(configs.dump(config)))
    keys = [line.split(":")[0] for line in lines if re.match(r"\w", line)]
    assert keys == ["seed", "tracking", "data", "train", "model"]


@pytest.mark.parametrize(
    "source", ["hf://datasets/org/name/x.parquet", "simplecache::hf://datasets/org/name@main/x"]
)
def test_a_source_on_the_hub_must_name_a_commit(source: str, config_file: Path) -> None:
    assert error_of(config_file, f"data.source={source}").startswith(
        "--set: data.source: a branch on the Hub"
    )
    pinned = f"data.source=hf://datasets/org/name@{'0a' * 20}/x.parquet"
    assert configs.load(RunConfig, config_file, [pinned]).data.source == pinned.partition("=")[2]
