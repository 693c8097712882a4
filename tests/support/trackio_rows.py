"""What trackio has of a run, in the folder that TRACKIO_DIR names: python -m support.trackio_rows PROJECT RUN"""

import json
import sys

import trackio.sqlite_storage

if __name__ == "__main__":
    print(json.dumps(trackio.sqlite_storage.SQLiteStorage.get_logs(*sys.argv[1:])))
