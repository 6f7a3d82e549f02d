"""From a folder of chest X-rays to a served pneumonia classifier."""
