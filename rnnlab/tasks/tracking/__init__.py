"""Tracking in video: the box of one object in every frame, many-to-many in step.

data.name "crossings": drawn videos of data.size x data.size pixels (`crossings`). Two objects turn, bounce
off the sides, cross and pass behind a bar that is wider than they are. A mark, the second channel, fills
the target's box in the first frame and is never seen again. The answer at every step, the hidden ones
too, is the target's box (cx, cy, w, h) as shares of the side, each coordinate counted from its mean in
units of its spread, so that sizes, which differ less than places, count as much; the loss is its squared
error. Metrics are the mean IoU over all steps, and on videos that only the end sees: test_iou;
hidden_iou, over the steps in which less than half of the target can be seen (HIDDEN); and covered_iou,
over those in which less than a tenth can (COVERED). Of 16 frames about half are hidden and a quarter
covered. The facts say what the same steps give who

- always says the mean box (the baseline of the loss, which is 1 by the choice of units),
- keeps the last box that was seen,
- moves it on by what lay between the last two that were seen (constant velocity).

The last two know the true box wherever the target is seen, which the model must find in the picture:
IoU 0.17 and 0.57 over the hidden steps, and with the true box of a target of which a tenth can be seen
0.29 and 0.73 over the covered ones (16 frames).

data.name "mot": data.path is a folder of sequences in the format of the MOT challenges (`mot`).
There are no pictures: at each frame of a track the input is how the box has changed since the frame
before, and the answer how it will have changed data.ahead frames on, both as (dx / w, dy / h, log w,
log h) (Girshick et al. 2014, appendix C). What is learned is the difference from constant velocity, that
of the mean change of the last RECENT frames, which is an input too and the baseline of the loss; all in
units of their spread in training, in which half of the tracks are mirrored. Validation is on the tracks
of the sequences that data.held names, else on data.valid of all tracks, drawn by chance. Metric: the IoU
of the boxes ahead. The facts say that of the box that stays, and of constant velocity by the last
change alone and by RECENT ones.

`launch.py mot` scores the boxes of a tracker of yours against the true ones, by MOTA and IDF1 (`scores`).
"""

from rnnlab.tasks.tracking.task import ABOUT, READS, make_task

__all__ = ["ABOUT", "READS", "make_task"]
