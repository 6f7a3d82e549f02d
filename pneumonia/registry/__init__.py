"""The registered model: its versions, and which of them is the champion."""
