"""bench.memory_check: every line of its tables can be asked for; a measurement is compared with the right forecast."""

import pathlib

import pytest

import config
from bench import memory_check
from cli import parser
from common.errors import UserError
from common.files import GIB
from memory import forecast as memory_forecast


@pytest.fixture
def eight_gib(monkeypatch):
    """Every forecast is 8 GiB. Returns the options that were forecast."""
    asked = []

    def forecast(options, architecture, device="cuda"):
        asked.append(options)
        return memory_forecast.Forecast({"training": dict.fromkeys(memory_forecast.KINDS, 2 * GIB)}, 0)

    monkeypatch.setattr(memory_forecast, "forecast_memory", forecast)
    return asked


@pytest.mark.parametrize("name", memory_check.CONFIGURATIONS)
def test_the_options_of_each_configuration_go_together(name):
    words = memory_check.CONFIGURATIONS[name].replace("middle", "tiny")
    parser.parse(config.TrainingOptions, [*words.split(), *memory_check.COMMON.split()])


@pytest.mark.slow
def test_plans_and_published_figures(eight_gib, capsys):
    for table in ("plans", "published"):
        assert memory_check.main(["--only", table]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == len(eight_gib) + 2 == len(memory_check.PLANS) + len(memory_check.PUBLISHED) + 2
    assert rows[1] == ["text encoder, the default", "4", "8.00", "5.0"]
    smallest = eight_gib[len(memory_check.PLANS) - 1]
    assert smallest.train_unet and smallest.train_text_encoder and smallest.weights_dtype == "bf16"
    assert float(rows[-1][2]) == pytest.approx(
        8 - 0.39, abs=0.02
    )  # less the VAE and the text encoder in half precision
    assert float(rows[-1][4]) == pytest.approx(float(rows[-1][3]) / float(rows[-1][2]), abs=0.01)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.script
@pytest.mark.real_forecast
def test_a_measurement_beside_its_forecast(small_data, monkeypatch, capsys, forking):
    monkeypatch.setattr(memory_check, "COMMON", memory_check.COMMON.replace("demo", str(small_data)))
    assert memory_check.main(["--only", "measured", "--match", "tiny: text encoder", "--resolution", "32x48"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["tiny: text encoder", "tiny: text encoder and UNet, AdamW"]
    for row in rows[1:]:
        assert float(row[3]) == pytest.approx(float(row[1]) / float(row[2]), abs=0.02)
        assert 0.9 < float(row[3]) < 1.1


def test_middle_is_made_once(tmp_path):
    folder = memory_check.make_middle(tmp_path / "middle")
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(folder).rglob("*.safetensors")}
    memory_check.make_middle(folder)
    assert before and before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(("words", "message"), [("--only all", "invalid choice"), ("--resolution 7", "multiples of 8")])
def test_bad_words(words, message):
    with pytest.raises(UserError, match=message):
        memory_check.main(words.split())
