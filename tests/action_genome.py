"""Action Genome in a tiny copy of its owners' layout: three annotated videos, whose frames show their own number."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.stages.action_genome.frames import VOCABULARY
from tests.conftest import write_video

WIDTH, HEIGHT = 96, 80  # of the videos; the annotations are of frames twice as large
ANNOTATED_SIZE = (192, 160)
BITS, BIT_PX = 6, 16
VIDEOS = {"001YG": (8, 40), "150E6": (12, 30), "46GP8": (8, 12)}  # frames a second, and frames
NUMBERS = {"001YG": (1, 2, 9, 40), "150E6": (5, 12), "46GP8": (3,)}  # annotated, from 1
ACTIONS = {  # id -> split, actions, length: two of the same bounds, one too long, one without a frame, one too late
    "001YG": ("train", "c000 0.00 2.00;c001 0.00 2.00;c002 4.50 9.00;c003 2.20 3.00;c004 6.00 7.00", 5.0),
    "46GP8": ("train", "", 1.5),
    "ZZZZZ": ("train", "c000 0.00 1.00", 3.0),
    "150E6": ("test", "c001 0.30 1.00", 2.5),
}
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
CLASSES = ("c000 Holding some clothes", "c001 Putting clothes", "c002 Taking / a thing", "c003 Opening", "c004 Closing")


def thing(video: str, number: int, name: str, box: tuple[float, ...] | None, *relations: list[str]) -> dict[str, Any]:
    """One object as in the pickle. Without `box` it is not visible, and its lists are None."""
    kinds = ("attention_relationship", "spatial_relationship", "contacting_relationship")
    split = ACTIONS[video][0]
    return {
        "class": name,
        "bbox": box,
        **dict(zip(kinds, relations if box else (None,) * 3, strict=True)),
        "metadata": {"tag": f"{video}.mp4/{name.replace('/', '_')}/{number:06d}", "set": split},
        "visible": box is not None,
    }


def objects() -> dict[str, list[dict[str, Any]]]:
    """The content of the pickle of objects. It is not in the order of the frames."""
    at: dict[tuple[str, int], list[tuple[Any, ...]]] = {
        ("150E6", 12): [("paper/notebook", (0.0, 0.0, 60.0, 40.0), ["unsure"], ["above"], ["writing_on"])],
        ("001YG", 40): [("closet/cabinet", (100.0, 20.0, 92.0, 140.0), ["not_looking_at"], ["behind"], [])],
        ("001YG", 1): [
            ("cup/glass/bottle", None),
            ("table", (20.0, 40.0, 60.0, 80.0), ["looking_at"], ["in_front_of"], ["touching", "other_relationship"]),
        ],
        ("46GP8", 3): [("sofa/couch", None), ("dish", None)],
        ("001YG", 9): [
            ("phone/camera", (30.0, 30.0, 10.0, 20.0), [], [], ["holding"]),
            ("doorknob", (0.0, 0.0, 0.0, 10.0), ["unsure"], ["in"], ["other_relationship"]),
        ],
        ("001YG", 2): [("sofa/couch", None)],
        ("150E6", 5): [("bag", (10.0, 10.0, 20.0, 20.0), ["looking_at"], ["beneath"], ["carrying"])],
    }
    return {
        f"{video}.mp4/{number:06d}.png": [thing(video, number, *each) for each in listed]
        for (video, number), listed in at.items()
    }


def persons() -> dict[str, dict[str, Any]]:
    """The content of the pickle of persons: one in each frame, two in frame 9 of a video and none in its frame 40."""
    boxes = {"001YG.mp4/000040.png": [], "001YG.mp4/000009.png": [[0, 0, 40, 80], [100, 0, 180, 160]]}
    content = {}
    for key in objects():
        of_frame = np.array(boxes.get(key, [[20, 10, 90, 150]]), np.float32).reshape(-1, 4)
        n = len(of_frame)
        content[key] = {
            "bbox": of_frame,
            "bbox_score": np.array([0.5, 0.9][:n] if n > 1 else [0.75] * n, np.float32),
            "bbox_size": ANNOTATED_SIZE,
            "bbox_mode": "xyxy",
            "keypoints": np.zeros((n, 17, 3), np.float32),
            "keypoints_logits": np.zeros((n, 17), np.float32),
        }
    return content


def write_pickle(path: Path, content: object) -> None:
    """Writes a pickle that names numpy as a file of 2020 does."""
    path.write_bytes(pickle.dumps(content, protocol=2).replace(b"numpy._core.", b"numpy.core."))


def write_annotations(root: Path) -> None:
    """Writes the files of Action Genome and of Charades to `root`."""
    root.mkdir(parents=True, exist_ok=True)
    write_pickle(root / "object_bbox_and_relationship.pkl", objects())
    write_pickle(root / "person_bbox.pkl", persons())
    (root / "frame_list.txt").write_text("\n".join(sorted(objects())))
    (root / "object_classes.txt").write_text("\n".join(VOCABULARY.classes))
    (root / "relationship_classes.txt").write_text("\n".join(VOCABULARY.relations))
    (root / "Charades_v1_classes.txt").write_text("".join(f"{line}\n" for line in CLASSES))
    for split in ("train", "test"):
        lines = [
            f'{name},S1,Kitchen,6,7,Yes,"a, b",bag;dish,,{actions},{length:.2f}'
            for name, (of, actions, length) in ACTIONS.items()
            if of == split
        ]
        (root / f"Charades_v1_{split}.csv").write_bytes("".join(f"{x}\r\n" for x in (HEADER, *lines)).encode())


def numbered(num_frames: int) -> np.ndarray:
    """Frames [T, H, W, 3] uint8 whose number, from 0, stands in white and black squares at the top."""
    frames = np.full((num_frames, HEIGHT, WIDTH, 3), 90, np.uint8)
    for number, frame in enumerate(frames):
        for bit in range(BITS):
            frame[:BIT_PX, bit * BIT_PX : (bit + 1) * BIT_PX] = 255 * (number >> bit & 1)
    return frames


def number_in(frame: np.ndarray) -> int:
    """The number that a frame [H, W, 3] shows."""
    middle = BIT_PX // 2
    return sum(int(frame[middle, bit * BIT_PX + middle].mean() > 127) << bit for bit in range(BITS))


def write_videos(root: Path) -> None:
    for name, (fps, num_frames) in VIDEOS.items():
        write_video(root / f"Charades_v1_480/{name}.mp4", numbered(num_frames), fps=fps)


def dataset(root: Path, **more: Any) -> dict[str, Any]:
    """The section of a config for annotations in `root` and videos in `root/videos`."""
    folders = {"root": str(root / "videos"), "annotations": str(root)}
    return {"kind": "action_genome", **folders, **more}
