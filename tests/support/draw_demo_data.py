"""Draws demo data and prints its folder: python -m support.draw_demo_data CACHE COUNT"""

import sys

from demo_data.folder import ensure_demo_data

if __name__ == "__main__":
    print(ensure_demo_data(sys.argv[1], int(sys.argv[2])))
