"""Write text into pictures without a plotting library, which Slicer's Python lacks."""

from __future__ import annotations

import numpy as np

#: Glyphs of 5 x 7 pixels with one blank column between them: a line with the characters, then their rows.
_SHEET = """
A     B     C     D     E     F     G     H     I     J     K     L     M     N     O     P     Q     R     S
.###. ####. .###. ####. ##### ##### .###. #...# .###. ..### #...# #.... #...# #...# .###. ####. .###. ####. .####
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. ...#. #..#. #.... ##.## ##..# #...# #...# #...# #...# #....
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.# ##..# #...# #...# #...# #...# #....
##### ####. #.... #...# ####. ####. #.### ##### ..#.. ...#. ##... #.... #.#.# #.#.# #...# ####. #...# ####. .###.
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...# #..## #...# #.... #.#.# #.#.. ....#
#...# #...# #...# #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...# #..## #...# #.... #..#. #..#. ....#
#...# ####. .###. ####. ##### #.... .###. #...# .###. .##.. #...# ##### #...# #...# .###. #.... .##.# #...# ####.
T     U     V     W     X     Y     Z     0     1     2     3     4     5     6     7     8     9     .     ,
##### #...# #...# #...# #...# #...# ##### .###. ..#.. .###. ##### ...#. ##### ..##. ##### .###. .###. ..... .....
..#.. #...# #...# #...# #...# #...# ....# #...# .##.. #...# ...#. ..##. #.... .#... ....# #...# #...# ..... .....
..#.. #...# #...# #...# .#.#. .#.#. ...#. #..## ..#.. ....# ..#.. .#.#. ####. #.... ...#. #...# #...# ..... .....
..#.. #...# #...# #.#.# ..#.. ..#.. ..#.. #.#.# ..#.. ...#. ...#. #..#. ....# ####. ..#.. .###. .#### ..... .....
..#.. #...# #...# #.#.# .#.#. ..#.. .#... ##..# ..#.. ..#.. ....# ##### ....# #...# .#... #...# ....# ..... .##..
..#.. #...# .#.#. ##.## #...# ..#.. #.... #...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ...#. .##.. ..#..
..#.. .###. ..#.. #...# #...# ..#.. ##### .###. .###. ##### .###. ...#. .###. .###. .#... .###. .##.. .##.. .#...
-     _     /     :     (     )     ?
..... ..... ..... ..... ...#. .#... .###.
..... ..... ....# .##.. ..#.. ..#.. #...#
..... ..... ...#. .##.. .#... ...#. ....#
##### ..... ..#.. ..... .#... ...#. ...#.
..... ..... .#... .##.. .#... ...#. ..#..
..... ..... #.... .##.. ..#.. ..#.. .....
..... ##### ..... ..... ...#. .#... ..#..
"""
HEIGHT, ADVANCE = 7, 6


def _glyphs() -> dict[str, np.ndarray]:
    """Return the glyphs (7, 5; bool) by character."""
    lines = _SHEET.strip("\n").splitlines()
    glyphs = {" ": np.zeros((HEIGHT, ADVANCE - 1), dtype=bool)}
    for top in range(0, len(lines), HEIGHT + 1):
        for number, character in enumerate(lines[top].split()):
            columns = slice(number * ADVANCE, number * ADVANCE + ADVANCE - 1)
            rows = [list(line[columns].ljust(ADVANCE - 1, ".")) for line in lines[top + 1 : top + 1 + HEIGHT]]
            glyphs[character] = np.array(rows) == "#"
    return glyphs


_GLYPHS = _glyphs()


def text_mask(text: str, scale: int) -> np.ndarray:
    """Return a mask (7 scale, 6 scale len(text)) of the text in capitals; ? stands for characters without a glyph."""
    cells = [np.pad(_GLYPHS.get(character, _GLYPHS["?"]), ((0, 0), (0, 1))) for character in text.upper()]
    row = np.concatenate(cells, axis=1) if cells else np.zeros((HEIGHT, 0), dtype=bool)
    return row.repeat(scale, axis=0).repeat(scale, axis=1)


def write_text(
    canvas: np.ndarray, text: str, x: int, y: int, *, scale: int = 2, colour: tuple[int, int, int] = (255, 255, 255)
) -> None:
    """Write into ``canvas`` (rows, columns, 3; uint8) from column ``x`` and row ``y`` on, cut off at its edges."""
    mask = text_mask(text, scale)[: max(canvas.shape[0] - y, 0), : max(canvas.shape[1] - x, 0)]
    canvas[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = colour
