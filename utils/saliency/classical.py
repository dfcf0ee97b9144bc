"""A salient-object detector without weights: minimum barrier distance, refined with GrabCut.

Background touches the border of most photographs. The minimum barrier distance of a pixel is low if a path of similar
colours leads to the border, so salient objects stand out. GrabCut then separates the two by their colours.
"""

import cv2
import numpy as np

SIDE = 200  # longer side, pixels, at which saliency is computed
SWEEPS = ((), (0, 1), (0,), (1,))  # axes to flip: one sweep from each corner
SURE_BACKGROUND = 0.05  # score, relative to the maximum
MIN_SEED = 10  # foreground pixels, from which GrabCut estimates five colour clusters


def classical_saliency(image: np.ndarray) -> np.ndarray:
    """Compute the saliency map of an image.

    Args:
        image: H x W x 3 uint8 BGR.

    Returns:
        H x W float32 in 0..1, with soft edges; all zeros if nothing differs from the border.
    """
    height, width = image.shape[:2]
    factor = min(1, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    foreground = _grab_cut(small, _score(small))
    return cv2.resize(foreground, (width, height))


def barrier_distance(image: np.ndarray) -> np.ndarray:
    """Approximate the minimum barrier distance to the border of the image, per channel.

    The barrier of a path is the difference between the largest and the smallest value on it, and the distance of a
    pixel is the smallest barrier of all paths from the border. Each sweep extends the paths in two directions.

    Args:
        image: H x W x C float32.

    Returns:
        H x W x C float32.
    """
    largest = np.full(image.shape, np.inf, np.float32)
    smallest = -largest
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        largest[border] = smallest[border] = image[border]
    for axes in SWEEPS:
        swept = _sweep(*(np.flip(array, axes) for array in (image, largest, smallest)))
        largest, smallest = (np.flip(array, axes) for array in swept)
    return largest - smallest


def _sweep(image: np.ndarray, largest: np.ndarray, smallest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Extend paths to the right and downwards; all arrays are H x W x C.

    A pixel depends on its left and upper neighbours, so all pixels of an anti-diagonal are updated at once. In the
    skewed arrays, row k holds the anti-diagonal y + x = k, and the first column is padding.
    """
    height, width, channels = image.shape
    y, x = np.indices((height, width))
    skewed = y + x, y + 1
    values, upper, lower = (
        np.full((height + width - 1, height + 1, channels), fill, np.float32) for fill in (0, np.inf, -np.inf)
    )
    values[skewed], upper[skewed], lower[skewed] = image, largest, smallest
    for k in range(1, height + width - 1):
        value, top, bottom = values[k, 1:], upper[k, 1:], lower[k, 1:]
        for neighbour in (np.s_[k - 1, 1:], np.s_[k - 1, :-1]):  # left, above
            new_top, new_bottom = np.maximum(upper[neighbour], value), np.minimum(lower[neighbour], value)
            closer = new_top - new_bottom < top - bottom
            np.copyto(top, new_top, where=closer)
            np.copyto(bottom, new_bottom, where=closer)
    return upper[skewed], lower[skewed]


def _score(small: np.ndarray) -> np.ndarray:
    """The blurred barrier distance in Lab, weighted towards the centre: H x W float32 in 0..1."""
    height, width = small.shape[:2]
    lab = cv2.medianBlur(cv2.cvtColor(small, cv2.COLOR_BGR2Lab), 3)
    distance = barrier_distance(lab.astype(np.float32)).sum(axis=2)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in (height, width))
    centred = 1 - np.hypot(y[:, None], x) / np.sqrt(2)
    score = cv2.GaussianBlur(distance, (0, 0), SIDE / 30) * centred
    return score / max(score.max(), 1e-6)


def _grab_cut(small: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The foreground that GrabCut finds, starting from Otsu's threshold of the score: H x W float32, 0 or 1."""
    threshold = cv2.threshold((score * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)[0] / 255
    mask = np.where(score >= threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[score < SURE_BACKGROUND] = cv2.GC_BGD
    mask[[0, -1]] = mask[:, [0, -1]] = cv2.GC_BGD
    if np.count_nonzero(mask == cv2.GC_PR_FGD) < MIN_SEED:
        return np.zeros(score.shape, np.float32)
    cv2.setRNGSeed(0)  # of the initial clusters, for reproducible maps
    unused, models = (0, 0, 1, 1), np.zeros((2, 1, 65))
    cv2.grabCut(small, mask, unused, models[0], models[1], 3, cv2.GC_INIT_WITH_MASK)
    return (mask == cv2.GC_PR_FGD).astype(np.float32)
