"""Write the library's colour tables as Slicer colour files: `python Testing/write_colour_files.py`."""

from pathlib import Path
from typing import get_args

from PerfusionCBVLib.colours import TableName, colour_table

FOLDER = Path(__file__).parent.parent / "PerfusionCBV" / "Resources" / "Colors"
NAMES = get_args(TableName)


def colour_file(name: str) -> str:
    """The lowest entry of a table that starts at zero is transparent, so that no blood volume shows the anatomy."""
    lowest_alpha = 255 if name == "diverging" else 0
    rows = [
        f"{index} {index} {red} {green} {blue} {255 if index else lowest_alpha}"
        for index, (red, green, blue) in enumerate(colour_table(name))
    ]
    head = [f"# Color table file PerfusionCBV {name}", f"# {len(rows)} values", "# index name R G B A (0-255)"]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    for each in NAMES:
        (FOLDER / f"{each}.ctbl").write_text(colour_file(each), "utf-8")
