"""Files of other programs: pictures, label files, outlines and outputs. No datasets, no torch."""
