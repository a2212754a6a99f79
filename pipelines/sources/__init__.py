"""Data sets as published, each listed as `Input`s: coco, imagenet, folder."""
