"""Draws demo data and prints its folder: python -m support.draw_demo_data CACHE COUNT"""

import sys

import demo_data

if __name__ == "__main__":
    print(demo_data.ensure(sys.argv[1], int(sys.argv[2])))
