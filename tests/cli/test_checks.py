import pytest

import config
from cli import checks, parser
from common.errors import UserError
from config import InferenceOptions, RunsOptions, TrainingOptions

KEY = "0123456789abcdef0123456789abcdef01234567"


def parse(words, cls=TrainingOptions):
    return parser.parse(cls, words)[0]


def test_inference_options_that_exclude_each_other():
    with pytest.raises(UserError, match="give one of the two"):
        parse(["--prompt", "a book", "--calc_fid"], InferenceOptions)
    with pytest.raises(UserError, match="--fid_weights belongs to"):
        parse(["--fid_features", "efficientnet", "--fid_weights", "w.pth"], InferenceOptions)


@pytest.fixture
def no_key(monkeypatch):
    """No WANDB_API_KEY, before and after."""
    monkeypatch.setenv("WANDB_API_KEY", "")  # so that it is put back even if the code sets it
    monkeypatch.delenv("WANDB_API_KEY")


@pytest.mark.parametrize("cls", [TrainingOptions, InferenceOptions, RunsOptions])
@pytest.mark.parametrize("name", ["none", "trackio", "tensorboard"])
def test_a_key_and_another_tracker_contradict_each_other(no_key, cls, name):
    with pytest.raises(UserError, match=f"--wandb_key turns wandb on, and --tracker says {name}") as caught:
        parse(["--wandb_key", KEY, "--tracker", name], cls)
    assert KEY not in str(caught.value)
    assert parse(["--wandb_key", KEY, "--tracker", "wandb"], cls).tracker == "wandb"


@pytest.mark.parametrize("text", ["Wandb", "mlflow", "trackio "])
def test_trackers_that_are_none(text):
    with pytest.raises(UserError, match="--tracker: expected one of none, wandb, trackio, tensorboard"):
        parse(["--tracker", text])


@pytest.mark.parametrize("text", ["best", "everything"])
def test_what_can_not_be_uploaded(text):
    with pytest.raises(UserError, match="--upload: expected one of all, versions, none"):
        parse(["--upload", text])


@pytest.mark.parametrize(
    "name", ["Umschläge", "カバー", "run²", "a b", "a/b", "a:b", ".hidden", "-x", "x" * 101, "ok\n"]
)
def test_run_names_that_a_folder_or_an_alias_could_not_bear(name):
    with pytest.raises(UserError, match="--run_name takes letters"):
        parse([f"--run_name={name}"])


@pytest.mark.parametrize("name", ["a", "Run_1.2-b", "7", "x" * 100])
def test_run_names_that_are_good(name):
    assert parse([f"--run_name={name}"]).run_name == name


@pytest.mark.parametrize("flag", ["--publish", "--prune"])
def test_publishing_and_pruning_work_on_one_run(flag):
    with pytest.raises(UserError, match="work on one run: say which with --run_id"):
        parse([flag], RunsOptions)
    assert parse([flag, "--run_id", "one"], RunsOptions).run_id == "one"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(metrics="fid,clip", calc_fid=True), "--metrics clip needs a CLIP model"),
        (dict(metrics="kid"), "are about scores: add --calc_fid True"),
        (dict(clip_model="some"), "are about scores: add --calc_fid True"),
    ],
)
def test_metrics_that_could_not_be_measured_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        checks.check(config.InferenceOptions(**options))


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match="--metrics fud: expected all, or some of fid, kid, precision"):
        checks.check(config.InferenceOptions(metrics="kid,fud"))
    with pytest.raises(UserError, match="--metrics: name at least one of fid, "):
        checks.check(config.InferenceOptions(metrics=" , "))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(decorrelate_by="alone"), "--decorrelate_by: it says how --decorrelate works: add that"),
        (dict(decorrelate=0.1, train_unet=True, train_text_encoder=False), "give --train_text_encoder True, or"),
        (dict(decorrelate=0.1, fused_backward=True, batch_size=1), "has passes of its own: give --fused_backward F"),
        (dict(debiased_loss=True, snr_gamma=5.0), "--debiased_loss and --snr_gamma are two weightings"),
        (dict(huber_c=0.2), "--huber_c belongs to --loss huber"),
        (dict(zero_terminal_snr=True, prediction_type="epsilon"), "--zero_terminal_snr needs v-prediction"),
    ],
)
def test_options_of_the_loss_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        checks.check(config.TrainingOptions(**options))
    checks.check(config.TrainingOptions(zero_terminal_snr=True))  # the model may predict v


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(prompt="a", prompts_file="b"), "--prompt is one prompt and --prompts_file has many"),
        (dict(prompts_file="b", calc_fid=True), "--prompts_file draws prompts and --calc_fid scores"),
        (dict(prompts_file="b", typeset=True), "--typeset True .* and --prompts_file has none"),
        (dict(prompt="a", typeset=True), "--typeset True sets a title as type, .*: add --title TITLE"),
        (dict(title="a"), "--title and --author are of the book of one --prompt: add that"),
        (dict(title="a", prompts_file="b"), "--title and --author are of the book of one --prompt"),
        (dict(author="a", prompt="b"), "--author stands below a title: add --title TITLE"),
        (dict(num_images=2), "--num_images is about --prompt and --prompts_file"),
        (dict(negative_prompt="a", guidance_scale=1.0), "--negative_prompt has no effect with --guidance_scale 1"),
    ],
)
def test_options_on_prompts_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        checks.check(config.InferenceOptions(**options))
    checks.check(config.InferenceOptions(prompt="a", title="b", author="c", typeset=True))


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("snr_gamma", "1e39", "expected a number of at most 1e\\+15"),  # torch raises: it is no float32
        ("lr", "1e39", "expected a number of at most 1e\\+15"),
        ("weight_decay", "1e300", "expected a number of at most 1e\\+15"),
        ("lr", "nan", "expected a number, got"),
        ("guidance_scale", "1e9", "expected at most 1000"),
        ("ema_decay", "1.0", "expected at most 0.99999"),
    ],
)
def test_numbers_that_the_arithmetic_can_not_take_are_refused(option, text, message):
    with pytest.raises(UserError, match=f"^--{option}: {message}"):
        parse([f"--{option}", text])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora_rank", "0"], "--lora_rank: expected at least 1"),
        (["--lora_alpha", "8"], "--lora_alpha is about LoRA adapters: add --lora_rank"),
        (["--lora_targets", "all"], "--lora_targets is about LoRA adapters: add --lora_rank"),
        (["--lora_dropout", "0.1"], "--lora_dropout is about LoRA adapters: add --lora_rank"),
        (["--lora_rank", "4", "--lora_dropout", "1"], "--lora_dropout: expected at most 0.9"),
        (["--lora_rank", "4", "--lora_targets", "all+conv"], "the text encoder has no convolutions; give all"),
        (["--lora_rank", "4", "--weights_dtype", "bf16"], "LoRA adapters stay in fp32: leave it out"),
    ],
)
def test_options_of_lora_that_make_no_sense(words, message):
    with pytest.raises(UserError) as problem:
        parser.parse(config.TrainingOptions, words)
    assert message in str(problem.value) and "\n" not in str(problem.value)
