"""The model card (Mitchell et al. 2019) of a registered version, as Markdown: what it is for, made of, worth, and not.

The whole card is an artifact of the run that trained the model; a version's description in MLflow holds the `summary`.
"""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pneumonia.config import TrainConfig
from pneumonia.data.classes import is_opacity_task
from pneumonia.data.index import Index
from pneumonia.results.evaluation import Evaluation

DESCRIPTION_LENGTH = 5000  # PostgreSQL refuses a longer one, sqlite keeps it silently
TEST = "Test films"
STRANGE = "Films that it does not know"
LINEAGE, HELD_OUT, UNLABELLED = "Lineage", "Held-out local films", "Films without labels"  # of adapted models
UNOPENED = "Not opened yet: `pneumonia evaluate` does."
# The sections of a description; where not all have room, the first ones.
KEPT = (
    "Intended use",
    LINEAGE,
    "Validation films",
    HELD_OUT,
    UNLABELLED,
    TEST,
    "Known failures",
    "Threshold",
    "How to make it again",
    STRANGE,
    "Data",
    "Protocol",
)

Origin = Literal["synthetic", "kermany", "other"]


def origin(index: Index) -> Origin:
    """Where the films come from, by their names: drawn by this program, Kermany's, or others."""
    if any(part.startswith("synthetic-v") for part in index.root.parts):
        return "synthetic"
    subtypes = set(index.table["subtype"]) - {""}
    return "kermany" if index.classes == ("NORMAL", "PNEUMONIA") and subtypes == {"bacteria", "virus"} else "other"


@dataclass(frozen=True)
class Made:
    """How a model was made: by one training with `config`, whose epoch `best_epoch` was the best, or (`best_epoch` 0)
    as an ensemble of `members` trainings. `changed`: corrupted copies of the validation films were scored too.
    `weights`: where those came from that the training began with, "" if they were random.
    """

    config: TrainConfig
    best_epoch: int
    members: int = 1
    changed: bool = True
    weights: str = ""

    def network(self) -> str:
        config = self.config
        kind = f"Residual CNN of width {config.width}" if config.network == "cnn" else config.network
        return f"{kind} from {f'the weights {self.weights}' if self.weights else 'random weights'}, {config.size} px"

    def training(self, scored_on: str) -> str:
        epochs = self.config.epochs
        if self.best_epoch:
            return f"{epochs} epochs, of which the averaged weights after number {self.best_epoch} were the best on" + (
                f" the validation films{scored_on}"
            )
        several = f"the mean of the {self.members} best trials' networks"
        joined = several if self.members > 1 else "the best trial's network"
        return (
            f"{epochs} epochs: {joined} of a search (settings of the best), chosen on the validation films{scored_on}"
        )

    def command(self, positive: str) -> str:
        """What makes it again."""
        films = f"--data FILMS --positive {shlex.quote(positive)}"
        if not self.best_epoch:
            return (
                f"`pneumonia search {films} --seed {self.config.seed}`, with the other parameters of the search's run"
            )
        again = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in asdict(self.config).items())
        return f"`pneumonia train {films} {again}`"


def card(name: str, *, index: Index, made: Made, validation: Evaluation, tags: Mapping[str, str]) -> str:
    """The card of a model before its test films are opened.

    Args:
        name: of the registered model.
        index: of the training and validation films; its report speaks of all.
        validation: of the films that chose epoch, calibration and threshold.
        tags: of the run; the git commit is taken from them.
    """
    negative, positive = index.classes
    whose, config = origin(index), made.config
    copies = ", as they are and changed as another hospital might make them" if made.changed else ""
    scored_on = copies
    if made.changed and is_opacity_task(index.classes):
        scored_on += ", and of normal ones painted, which count as ill"
    painted = ""
    if config.opacity:
        painted = (
            f" A share of {config.opacity:g} of the normal films drawn in training had an opacity painted into the "
            "lungs and counted as ill."
        )
    commit = tags.get("mlflow.source.git.commit")
    sections = {
        "Intended use": bullets(
            f"Gives a probability that a frontal chest film is {positive} rather than {negative}.",
            "For research and teaching. It is not a medical device, and nobody's treatment may depend on it.",
            *USES[whose],
        ),
        "Data": bullets(
            *DATA[whose],
            f"Positive class: {positive}; negative class: {negative}.",
            f"Fingerprint of the films: {index.fingerprint}.",
        )
        + "\n\n"
        + _table(
            ("split", "class", "subtype", "films", "patients"),
            [(c["split"], c["class"], c["subtype"] or "-", c["films"], c["patients"]) for c in index.report.counts],
        ),
        "Protocol": bullets(
            "Validation films are whole patients, chosen by a salted hash or given as such; no patient is on both "
            "sides.",
            f"{made.network()}, {made.training(scored_on)}; sampler: {config.sampler}.{painted}",
            f"Calibration (Platt's line) and threshold come from the validation films{copies}.",
            "Test films were neither trained on nor looked at; `pneumonia evaluate` opens them, and counts how often.",
        ),
        "Validation films": "These films chose epoch, calibration and threshold, so the figures flatter.\n\n"
        + _scores(validation),
        TEST: UNOPENED,
        "Known failures": bullets(*FAILURES[whose]),
        STRANGE: bullets(
            "Each answer says how familiar the film is: the share of the validation films that are at least as far "
            "from the training films. Below 0.05 it is called unfamiliar, as one validation film in twenty is, and its "
            "probability may mean nothing.",
            *KNOWN[whose],
            "A familiar film can be called wrong all the same.",
        ),
        "Threshold": f"A film is called {positive} when its probability is at least {validation.threshold:.4f}: the "
        f"threshold that maximises balanced accuracy on the validation films{copies}, "
        "once each film's logit is blurred.",
        "How to make it again": bullets(
            f"Commit: {commit}" if commit else "Commit: unknown, it was not made from a checkout",
            f"Films: fingerprint {index.fingerprint[:12]}; seed {config.seed}",
            made.command(positive),
        ),
    }
    return join(f"Model card: {name}", sections)


def with_test(card: str, evaluation: Evaluation, *, folder: str, openings: int) -> str:
    """The card with the figures of the test films in place of what stood there of them."""
    title, sections = _split(card)
    times = "the first time that they were opened" if openings == 1 else f"opening number {openings}"
    sections[TEST] = f"{folder}, {times} for this model.\n\n" + _scores(evaluation)
    return join(title, sections)


def summary(card: str, *, more: str) -> str:
    """As much of the card as fits into a version's description, and where the whole card is (`more`)."""
    _, sections = _split(card)
    tail = f"\n\nThe whole card: {more}"
    room = DESCRIPTION_LENGTH - len(tail)
    kept: dict[str, str] = {}
    for name in KEPT:
        if name in sections and len(join("", {**kept, name: sections[name]})) <= room:
            kept[name] = sections[name]
    return join("", {name: kept[name] for name in sections if name in kept}) + tail


def _scores(evaluation: Evaluation) -> str:
    subgroups = [
        f"{evaluation.name(group.label, group.subtype)}: {group.right:.3f} of {group.films:,} films called right "
        f"({group.interval[0]:.3f} to {group.interval[1]:.3f})"
        for group in evaluation.subgroups
    ]
    return evaluation.text() + "\n\n" + bullets(*subgroups)


def join(title: str, sections: Mapping[str, str]) -> str:
    """A card as Markdown: its title, if it has one, and sections by their names."""
    head = f"# {title}\n\n" if title else ""
    return head + "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())


def _split(card: str) -> tuple[str, dict[str, str]]:
    head, *parts = card.split("\n\n## ")
    sections: dict[str, str] = {}
    for part in parts:
        name, text = part.split("\n\n", 1)
        sections[name] = text
    return head.removeprefix("# "), sections


def bullets(*lines: str) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def _table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


USES: dict[Origin, tuple[str, ...]] = {
    "synthetic": ("The films were drawn by a program: the model knows nothing of real ones.",),
    "kermany": (
        "Made for films like those it was trained on: children of one to five years, front to back, one hospital.",
        "Not for adults, other hospitals or other questions without being measured there first.",
    ),
    "other": ("Not for films unlike those it was trained on without being measured there first.",),
}
DATA: dict[Origin, tuple[str, ...]] = {
    "synthetic": ("Drawn by `pneumonia`; no patient is behind them.",),
    "kermany": (
        "Kermany et al. 2018, Guangzhou Women and Children's Medical Center, children of one to five years; CC BY 4.0, "
        "doi:10.17632/rscbjbr9sj.2.",
    ),
    "other": ("The user's own films; their origin and licence are not known to the program.",),
}
KNOWN: dict[Origin, tuple[str, ...]] = {
    "synthetic": ("How many strange films it tells was not measured.",),
    "kermany": (
        "To models of such films, photographs, slices of CT and MR, letters, noise, films on their side or head and "
        "most of another hospital's were unfamiliar. Lateral chests and hands were not at hand: nobody knows.",
    ),
    "other": ("How many strange films it tells was not measured.",),
}
FAILURES: dict[Origin, tuple[str, ...]] = {
    "synthetic": ("On real films its output means nothing.",),
    "kermany": (
        "Normal films of the test set differ from those of the training set: specificity falls there, and "
        "probabilities come out too high.",
        "On another hospital's films, nearly all of adults, five models of the default recipe of 94dab95 did much "
        "worse: AUC 0.841 (0.77 within a view), specificity 0.41 at their threshold. On all 624 test films of their "
        "own hospital they had AUC 0.989 and accuracy 0.956. `pneumonia adapt` takes a model to another place.",
        "The training films' JPEG quality alone tells the classes apart; a network may use what is left of that.",
    ),
    "other": (
        "Not known. Models of this kind do worse on films of another hospital, machine or age than in training.",
    ),
}
