"""Finding faces: five points of each, by MediaPipe (the extra `align`).

Up to release 0.10.14 MediaPipe's wheel carries its models. Later ones need a model file of Google's "face
landmarker" (`.task`), which `--landmark-model` names.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip2gan.editing.alignment import LEAST_EYES, Landmarks
from clip2gan.messages import one_line

MOST_FACES = 32
LONGEST_SIDE = 1920  # a larger photo is shrunk before it is looked at
CONFIDENCE = 0.5
NOT_INSTALLED = (
    "finding faces needs MediaPipe: pip install 'clip2gan[align]'; "
    "or give the five points yourself (--points)"
)
NO_MODEL = (
    "this release of MediaPipe has no models of its own: name a face_landmarker.task by --landmark-model, "
    "install mediapipe==0.10.14 (Python 3.12 or older), or give the five points yourself (--points)"
)
# Of MediaPipe's face mesh; each eye's centre is the mean of four points.
_LEFT_EYE, _RIGHT_EYE = (33, 133, 159, 145), (263, 362, 386, 374)
_NOSE, _LEFT_MOUTH, _RIGHT_MOUTH = (1,), (61,), (291,)


def find_faces(photo: Image.Image, model: str | Path | None = None) -> list[Landmarks]:
    """The faces in an RGB photo, from left to right; those too small to see anything in are left out.

    Args:
        photo: of any size.
        model: a face_landmarker.task; None takes the models in MediaPipe's wheel.

    Raises:
        ValueError: MediaPipe is not installed or has no model, or the file is none.
        FileNotFoundError: `model` is not there.
    """
    if model is not None and not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such file of a face landmarker")
    scale = min(1.0, LONGEST_SIDE / max(photo.size))
    small = photo if scale == 1 else photo.resize((round(photo.width * scale), round(photo.height * scale)))
    with _quiet():
        mediapipe = _import()
        if model is not None:
            meshes = _by_landmarker(mediapipe, np.asarray(small), Path(model))
        else:
            meshes = _by_face_mesh(mediapipe, np.asarray(small))
    faces = [_landmarks(mesh / scale) for mesh in meshes]
    seen = [face for face in faces if abs(_width(face)) >= LEAST_EYES]
    return sorted(seen, key=lambda face: face.nose)


def check_detector(model: str | Path | None = None) -> None:
    """Raise, before anything is computed, what `find_faces` would raise for any photo."""
    if model is not None and not Path(model).is_file():
        raise FileNotFoundError(f"{model}: no such file of a face landmarker")
    with _quiet():
        if model is None and not hasattr(_import(), "solutions"):
            raise ValueError(NO_MODEL)


def _import() -> Any:
    try:
        import mediapipe  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(NOT_INSTALLED) from error
    return mediapipe


def _by_face_mesh(mediapipe: Any, pixels: np.ndarray) -> list[np.ndarray]:
    """Meshes [468, 2] in pixels: faces are found in the whole photo, and looked at one by one."""
    if not hasattr(mediapipe, "solutions"):
        raise ValueError(NO_MODEL)
    height, width = pixels.shape[:2]
    meshes: list[np.ndarray] = []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, max_num_faces=1, min_detection_confidence=CONFIDENCE
    ) as mesh:
        for left, top, right, bottom in _boxes(mediapipe, pixels):
            # The mesh's own detector wants a face that fills a good part of its picture.
            found = mesh.process(np.ascontiguousarray(pixels[top:bottom, left:right]))
            for face in found.multi_face_landmarks or []:
                points = np.array([(point.x, point.y) for point in face.landmark])
                points = points * (right - left, bottom - top) + (left, top)
                if not any(_same(points, other) for other in meshes):
                    meshes.append(points)
    return [points for points in meshes if (points.mean(0) < (width, height)).all()]


def _boxes(mediapipe: Any, pixels: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) around faces, twice as large, by the detectors for near and far."""
    height, width = pixels.shape[:2]
    boxes = []
    for far in (0, 1):
        with mediapipe.solutions.face_detection.FaceDetection(
            model_selection=far, min_detection_confidence=CONFIDENCE
        ) as detector:
            for found in (detector.process(pixels).detections or [])[:MOST_FACES]:
                box = found.location_data.relative_bounding_box
                cx, cy = (box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height
                half = max(box.width * width, box.height * height)
                left, top = max(0, int(cx - half)), max(0, int(cy - half))
                right, bottom = min(width, int(cx + half)), min(height, int(cy + half))
                if right - left >= LEAST_EYES and bottom - top >= LEAST_EYES:
                    boxes.append((left, top, right, bottom))
    return boxes


def _by_landmarker(mediapipe: Any, pixels: np.ndarray, model: Path) -> list[np.ndarray]:
    """Meshes [478, 2] in pixels, by a model file."""
    vision = mediapipe.tasks.vision
    options = vision.FaceLandmarkerOptions(
        base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(model)), num_faces=MOST_FACES
    )
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{model}: not a face landmarker that MediaPipe reads ({one_line(error)})"
        ) from error
    with landmarker:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        found = landmarker.detect(image).face_landmarks
    height, width = pixels.shape[:2]
    return [np.array([(point.x * width, point.y * height) for point in face]) for face in found]


def _landmarks(mesh: np.ndarray) -> Landmarks:
    groups = (_LEFT_EYE, _RIGHT_EYE, _NOSE, _LEFT_MOUTH, _RIGHT_MOUTH)
    return Landmarks.of([mesh[list(group)].mean(0) for group in groups])


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two meshes are of one face: their middles are nearer than a quarter of its width."""
    return bool(np.hypot(*(a.mean(0) - b.mean(0))) < np.ptp(a[:, 0]) / 4)


def _width(face: Landmarks) -> float:
    return float(np.hypot(face.right_eye[0] - face.left_eye[0], face.right_eye[1] - face.left_eye[1]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MediaPipe's C++ code tells of its progress on the process's standard error."""
    sys.stderr.flush()
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
