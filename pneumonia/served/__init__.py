"""What a registered model runs; training and evaluation read films with it too, so that there is one way to read a
film.

MLflow logs these modules as one file of code with the model (see `bundle`), so they import nothing else of the package,
and no torch: a model's folder serves on a machine that has neither. `model` imports MLflow, which takes seconds, and is
not imported here.
"""

from pneumonia.served.dicom_header import warning_of
from pneumonia.served.film import CANONICAL, DECODE_VERSION, decode, read_film, standardise, stretch
from pneumonia.served.formats import kind
from pneumonia.served.heatmap import evidence, overlay
from pneumonia.served.limits import MAX_BYTES, FilmError
from pneumonia.served.predictor import FAMILIAR, FORMAT, OUTPUTS, Predictor, session

__all__ = [
    "CANONICAL",
    "DECODE_VERSION",
    "FAMILIAR",
    "FORMAT",
    "MAX_BYTES",
    "OUTPUTS",
    "FilmError",
    "Predictor",
    "decode",
    "evidence",
    "kind",
    "overlay",
    "read_film",
    "session",
    "standardise",
    "stretch",
    "warning_of",
]
