"""What kind of thing a film or a request was refused for, so that refusals can be counted."""

import re

# The first whose words are in the sentence. A kind is kept for years in logs and dashboards: none may be renamed.
KINDS = {
    "missing": r"^the image is missing|^the film is empty",
    "not_base64": r"^the image (is a list|must be base64|is not base64)",
    "other_format": r"not a JPEG, PNG or DICOM film$",
    "no_chest_film": r"is not a plain radiograph|is not of a chest",
    "size": r"is larger than|is too (small|large)|too many (scans|elements)",
    "blank": r"holds no picture",
    "damaged": r"damaged|cut short|fewer bytes than|do not match|have another size than",
    "request": r"^a request must hold|^with explain a request|^the request has no|^the parameter ",
    "internal": r"^the model failed on this request",
    "unread_dicom": r"DICOM",
    "unread_picture": r"JPEG|PNG",
}


def kind_of_refusal(sentence: str) -> str:
    """One of `KINDS` for the sentence of a refusal, without its `record 3: `; `other` if it is of none; empty for
    none.
    """
    words = re.sub(r"^record \d+: ", "", sentence)
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, words)), "other" if words else "")
