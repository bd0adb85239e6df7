"""Many-to-one: which action a clip shows, from its frames or from joints or sensors.

A small convolutional encoder makes a vector of each frame, the recurrent network reads the vectors, and
its output at a clip's last step is the answer (cf. Donahue et al. 2015). Clips are of different lengths;
what stands behind the end of one is masked.

Built in: an object in one of ten motions (`motions`). Lengths are uniform from data.shortest to
train.window. By construction a frame by itself has the same distribution in each class, so that who sees
one frame can only guess.

Real data: data.path is a folder with a folder of files for each class, CLASS/NAME.avi as in UCF101 (Soomro
et al. 2012). The files are videos, of which frames of data.side x data.side are read, in colour; or .npy
files [T, D] or .csv files of T lines of D numbers, which no encoder reads (joints, sensors: each of the D
scaled to mean 0 and variance 1 over the training steps). A .csv file may have a heading, and after the
numbers a column of labels: words, or what the heading calls "label" or "class". It is no input; all lines
of a file have the same, and files in one folder, without folders for classes, are of the class that it
says. Of more than train.window steps as many are kept,
evenly spread. data.trainlist and data.testlist are lists in UCF101's format, "CLASS/NAME.avi" and perhaps
a label on each line; without them a share of data.test of each class is for the end. data.valid is the
share of the other clips that is held out. Which clips follows from a hash of CLASS/NAME, and is the same
for all seeds; clips of one group (v_NAME_g01_c01 and v_NAME_g01_c02) stay together, since they show the
same people and place.

`one_frame_accuracy` in run.json is what a classifier of the middle frame alone reaches (`one_frame`).
"""

from rnnlab.tasks.actions.task import ABOUT, READS, make_task

__all__ = ["ABOUT", "READS", "make_task"]
