"""The public data sets: how to download and unpack them, and the tables of groups and folds that come with us."""
