"""Where random numbers, symbols, downloads and pictures come from, and how files of the user's are read.

Texts are read in any encoding, folders through links; there are tables, images and videos, and what cannot be
read is named (`reading`).
"""
