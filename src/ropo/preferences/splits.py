"""Which files of a folder are a split: exact names win, and what is ambiguous is refused."""

from __future__ import annotations

__all__ = ()

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ropo.core.errors import UserError

# The names that one split goes by, as `datasets` knows them.
_SYNONYMS = (
    ("train", "training"),
    ("validation", "valid", "val", "dev"),
    ("test", "testing", "eval", "evaluation"),
)
_ANY_SPLIT = "|".join(name for names in _SYNONYMS for name in names)
# What `datasets` and the hub write beside data.
_OUR_OWN = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")
_SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?$|[-_.]?\d+$")


def files_of_split(folder: Path, split: str, files: Sequence[Path], kinds: str) -> list[Path]:
    """Return the files of a split, in order.

    A name is a file's, without suffixes and the number of its part (`data/train_prefs-00000-of-00002.parquet` is
    train_prefs), or that of a folder it lies in. Names equal to the split win over names that hold it as a word
    (`uf.train.jsonl`), and both win over another name of the same split (`training.jsonl`). Where no name holds any
    split's, all files are read.

    Args:
        folder: The folder.
        split: The split.
        files: The files in it that we can read, in order.
        kinds: What we can read, for messages.

    Raises:
        UserError: If several names answer to the split, or the folder has no file of it.
    """
    files = [file for file in files if file.name not in _OUR_OWN and not _hidden(file.relative_to(folder))]
    wanted = split.lower()
    any_split = re.compile(rf"(?<![a-z])({_ANY_SPLIT})(?![a-z])")
    alike = next((names for names in _SYNONYMS if wanted in names), (wanted,))
    for answers in (_is(wanted), _has_word(wanted), _is(*alike), _has_word(*alike)):
        groups = _groups(folder, files, answers)
        if len(groups) > 1:
            raise UserError(
                f"data {folder}: several sets of files answer to split {split!r}: {', '.join(groups)[:300]}; name "
                "the whole name of one as the split, or its folder or file as the data"
            )
        if groups:
            return next(iter(groups.values()))
    others = _groups(folder, files, lambda name: any_split.search(name) is not None)
    if files and not others:
        return files
    raise UserError(
        f"data {folder}: the folder has no {kinds} file of split {split!r}"
        + (f", only {', '.join(others)[:300]}; name one of these splits" if others else "; name the file itself")
    )


def _is(*wanted: str) -> Callable[[str], bool]:
    return lambda name: name in wanted


def _has_word(*wanted: str) -> Callable[[str], bool]:
    word = re.compile(rf"(?<![a-z0-9])({'|'.join(map(re.escape, wanted))})(?![a-z0-9])")
    return lambda name: word.search(name) is not None


def _groups(folder: Path, files: Sequence[Path], answers: Callable[[str], bool]) -> dict[str, list[Path]]:
    """Gather the files that answer, by the name that does: a folder's, or a file's without the number of its part."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        group = next((group for name, group in _names(file.relative_to(folder)) if answers(name)), None)
        if group is not None:
            groups.setdefault(group, []).append(file)
    return groups


def _names(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the names a file goes by, in small letters, each with what to call the files that share it."""
    for depth, part in enumerate(file.parts[:-1], start=1):
        yield part.lower(), "/".join(file.parts[:depth]) + "/"
    packed = ".gz" if file.suffix == ".gz" else ""
    kind = Path(file.name.removesuffix(packed)).suffix
    stem = _SHARD.sub("", file.name.removesuffix(packed).removesuffix(kind))
    yield stem.lower(), str(file.with_name(stem + kind + packed))


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)
