"""Draws demo data and prints its folder: python -m support.draw_demo_data CACHE COUNT"""

import sys

from demo_data import folder

if __name__ == "__main__":
    print(folder.ensure(sys.argv[1], int(sys.argv[2])))
