"""The model card of a version that was adapted to a place: where it comes from, and what that gained there."""

from collections.abc import Mapping

from pneumonia.reports.model_card import HELD_OUT, LINEAGE, STRANGE, TEST, UNLABELLED, UNOPENED, bullets, join
from pneumonia.results.adaptation import Adaptation, Matched
from pneumonia.tracking.tags import FINGERPRINT, PARENT, PARENT_RUN, PLACE


def adapted_card(name: str, *, adaptation: Adaptation, params: Mapping[str, object], tags: Mapping[str, str]) -> str:
    """The card of a model that was adapted to labelled films of a place.

    Args:
        name: of the registered model.
        params: of the run: what it was asked for, and the recipe.
        tags: of the run: the place, and the model that was adapted.
    """
    adapted = adaptation.adapted
    replay = "" if params["replay"] == "none" else ", with training films of its first place mixed in"
    line = adapted.model.calibration
    sections = {
        "Intended use": _use(tags[PLACE], adaptation.classes),
        LINEAGE: _lineage(tags, f"{adaptation.how()}{replay}", adapted.model.networks[0].weights),
        HELD_OUT: adaptation.text(),
        TEST: UNOPENED,
        "Known failures": bullets(
            f"Measured on {adaptation.films} films of one place, so that the intervals are wide.",
            "Films of the first place may be told apart less well than before.",
        ),
        STRANGE: _familiar(tags[PLACE]),
        "Threshold": f"A film is called {adaptation.classes[1]} when its probability is at least "
        f"{adapted.model.threshold:.4f}. The calibration's line (slope {line.slope:.3f}, intercept "
        f"{line.intercept:.3f}) and the threshold come from the held-out local films.",
        "How to make it again": bullets(
            _commit(tags),
            f"Films: fingerprint {tags[FINGERPRINT][:12]}; seed {params['seed']}",
            f"`pneumonia adapt --model {params['model']} --data FILMS --name {tags[PLACE]} --seed {params['seed']}`"
            + (" with `--replay`" if replay else ""),
        ),
    }
    return join(f"Model card: {name}", sections)


def matched_card(
    name: str,
    *,
    matched: Matched,
    classes: tuple[str, str],
    params: Mapping[str, object],
    tags: Mapping[str, str],
    weights: str = "",
) -> str:
    """The card of a model whose threshold was moved by a place's films without labels; `name`, `params` and `tags` as
    of `adapted_card`, `classes` negative and positive, `weights` as `Network.weights`.
    """
    sections = {
        "Intended use": _use(tags[PLACE], classes),
        LINEAGE: _lineage(tags, "its network as it was, with another line and threshold", weights),
        UNLABELLED: matched.text(),
        TEST: UNOPENED,
        "Known failures": bullets(
            "Not measured: nobody has read the films that it was made with.",
            f"Where the prevalence is not {matched.prevalence:g}, too many or too few films are called {classes[1]}, "
            "and its probabilities are wrong likewise.",
            "What the first model takes for ill it takes for ill: an order of films that is wrong there stays wrong.",
        ),
        STRANGE: _familiar(tags[PLACE]),
        "Threshold": f"A film is called {classes[1]} when its probability is at least {matched.threshold:.4f}: as many "
        f"of the {matched.films} films are as the prevalence says.",
        "How to make it again": bullets(
            _commit(tags),
            f"Films: fingerprint {tags[FINGERPRINT][:12]}",
            f"`pneumonia adapt --model {params['model']} --data FILMS --name {tags[PLACE]} --labels none "
            f"--prevalence {matched.prevalence:g}`",
        ),
    }
    return join(f"Model card: {name}", sections)


def _use(place: str, classes: tuple[str, str]) -> str:
    negative, positive = classes
    return bullets(
        f"Gives a probability that a frontal chest film of {place} is {positive} rather than {negative}.",
        "For research and teaching. It is not a medical device, and nobody's treatment may depend on it.",
        "Not for another place: it has been moved away from what it first learned.",
    )


def _lineage(tags: Mapping[str, str], how: str, weights: str) -> str:
    run = tags.get(PARENT_RUN)
    return bullets(
        f"Made from {tags[PARENT]}" + (f", run {run}" if run else "") + f": {how}.",
        *([f"The first training of these weights began from {weights}."] if weights else []),
        "What holds of that model's films and failures is in its own card.",
    )


def _familiar(place: str) -> str:
    return bullets(
        f"What it calls familiar was fitted to these films of {place}; films of its first place may be strange to it.",
        "How many strange films it tells was not measured. A familiar film can be called wrong all the same.",
    )


def _commit(tags: Mapping[str, str]) -> str:
    return f"Commit: {tags.get('mlflow.source.git.commit', 'unknown, it was not made from a checkout')}"
