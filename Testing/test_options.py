"""What no option can mean is refused at once, in words, whichever command and option it is: numbers, names, folders."""

import argparse
import json

import nibabel as nib
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import cli, cli_options

NEVER_MEANT = ("-1", "nan", "inf", "-inf", "1e30", "9" * 30, "x", "", "1,5", "٣٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠")

NAMES = (cli_options.path, cli_options.text, cli_options.output_folder, cli_options.page_file)
BY_CASE = {("batch", "echo_time"), ("batch", "repetition_time")}
SERIES, MAPS, LESION = "{home}/dsc.nii.gz", "{home}/maps", "{home}/lesion.nii.gz"
NEEDED = {
    "map": [SERIES, "--method", "bsw", "--aif", "{home}/aif.csv"],
    "check": [SERIES],
    "batch": ["{home}"],
    "measure": [MAPS, "--regions", LESION],
}
WITHOUT_OUTPUT = ("check", "view")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A series and a map of it, to have something that the commands could work on."""
    folder = tmp_path_factory.mktemp("home")
    head = graded_head(shape=(40, 46, 6), frames=40)
    image = nib.Nifti1Image(head.series.signal, head.series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nib.save(image, folder / "dsc.nii.gz")
    (folder / "dsc.json").write_text(json.dumps({"EchoTime": 0.03, "FlipAngle": 60}), "utf-8")
    nib.save(nib.Nifti1Image(head.lesion.astype("uint8"), head.series.affine), folder / "lesion.nii.gz")
    arguments = ["map", folder / "dsc.nii.gz", "--output", folder / "maps", "--method", "bsw", "--normalize", "brain"]
    assert cli.main([*map(str, arguments)]) == 0
    return folder


def commands():
    """Every command's parser by its name."""
    return next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


def options_with_numbers():
    """Every option of every command whose value is a number."""
    for name, command in commands().items():
        for action in command._actions:
            text = action.type in (None, *NAMES)
            # What a series lacks is checked with the series, in a batch with each case.
            if action.option_strings and not text and (name, action.dest) not in BY_CASE:
                yield pytest.param(name, action.option_strings[0], id=f"{name} {action.option_strings[0]}")


@pytest.mark.parametrize(("command", "option"), list(options_with_numbers()))
def test_a_number_that_is_never_meant_is_refused_in_words(home, tmp_path, capsys, command, option):
    output = [] if command in WITHOUT_OUTPUT else ["--output", str(tmp_path / "out")]
    needed = [each.format(home=home) for each in NEEDED.get(command, [])]
    for value in NEVER_MEANT:
        try:
            code = cli.main([command, *needed, *output, f"{option}={value}"])
        except SystemExit as exit:
            code = exit.code
        said = capsys.readouterr().err.strip()
        assert code in (2, 3), (value, code, said)
        assert said.startswith("perfusion-cbv"), (value, said)
        assert "\n" not in said, (value, said)
        assert not (tmp_path / "out").exists(), value


def test_there_are_such_options():
    assert len(list(options_with_numbers())) > 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no named values"),
        ("{}", "seed|head|tumours"),
        ('{"seed": 1, "tumours": 7}', "no parameters"),
        ("[" * 100_000, "can't be read"),
        ("\x00", "can't be read"),
    ],
)
def test_parameters_of_a_simulation_that_are_none_are_refused(tmp_path, capsys, content, words):
    path = tmp_path / "parameters.json"
    path.write_text(content, "utf-8")
    assert cli.main(["simulate", "--output", str(tmp_path / "out"), "--parameters", str(path)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert any(word in said for word in words.split("|")), said


@pytest.mark.parametrize(("field", "value"), [("frames", 10**9), ("flip_angle_deg", "x"), ("repetition_time_s", None)])
def test_parameters_with_an_impossible_protocol_are_refused(tmp_path, capsys, field, value):
    from PerfusionCBVLib.simulate.parameters import demo_parameters

    content = json.loads(demo_parameters().to_json())
    content["scan"][field] = value
    path = tmp_path / "parameters.json"
    path.write_text(json.dumps(content), "utf-8")
    assert cli.main(["simulate", "--output", str(tmp_path / "out"), "--parameters", str(path)]) in (2, 3)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_seed_that_would_draw_the_patients_of_the_test_is_refused(tmp_path, capsys):
    assert cli.main(["train", "--output", str(tmp_path / "run"), "--seed", "90"]) == 2
    assert "validated and tested" in capsys.readouterr().err


def options_with_paths(*types):
    """Every option and argument of every command of these types."""
    for name, command in commands().items():
        for action in command._actions:
            if action.type in types:
                yield pytest.param(name, action, id=f"{name} {action.dest}")


def refused(capsys, command, action, value):
    """What a command says when one of its arguments is `value` and all that it needs besides is there."""
    words = [command]
    for other in commands()[command]._actions:
        chosen = value if other.dest == action.dest else "page.html" if other.type is cli_options.page_file else "there"
        if not other.option_strings and other.nargs != 0:
            words.append(chosen)
        elif other.required or other.dest == action.dest:
            words.append(f"{other.option_strings[0]}={chosen}")
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("command", "action"),
    list(options_with_paths(*NAMES)),
)
def test_an_empty_name_is_not_the_current_folder(capsys, tmp_path, monkeypatch, command, action):
    monkeypatch.chdir(tmp_path)
    for value in ("", "  "):
        assert "empty" in refused(capsys, command, action, value)
    assert "long" in refused(capsys, command, action, "x" * 300)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "action"), list(options_with_paths(cli_options.output_folder)))
def test_a_file_is_no_folder_to_write_into_and_is_refused_before_any_work(capsys, tmp_path, command, action):
    (tmp_path / "file").write_text("mine", "utf-8")
    for value in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "file is a file. Name a folder" in refused(capsys, command, action, str(value))
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_a_page_of_another_kind_or_in_place_of_a_folder_is_refused_before_any_work(capsys, tmp_path):
    ((command, action),) = (each.values for each in options_with_paths(cli_options.page_file))
    assert "neither in .pdf nor in .html" in refused(capsys, command, action, str(tmp_path / "page.docx"))
    (tmp_path / "page.pdf").mkdir()
    assert "is a folder" in refused(capsys, command, action, str(tmp_path / "page.pdf"))
