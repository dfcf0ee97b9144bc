"""For torch.hub: `torch.hub.load("FOLDER OR OWNER/REPOSITORY", "mdba", weights="VOC_69.5.pth")`."""

from typing import Any

from utils.evaluation.predictor import Predictor

dependencies = ["torch", "numpy", "cv2", "PIL", "tqdm", "yaml"]


def mdba(weights: str, device: str = "cpu", **options: Any) -> Predictor:
    """A trained network: called with an image, it returns the label of each pixel. `options`: see `Predictor`."""
    return Predictor(weights, device, **options)
