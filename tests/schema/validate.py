"""Prints for each line of events.ndjson whether it is valid by the schema: python3 validate.py SCHEMA"""

import json
import sys

import jsonschema

with open(sys.argv[1], encoding="utf-8") as file:
    validator = jsonschema.Draft202012Validator(json.load(file))
with open("events.ndjson", encoding="utf-8") as file:
    for line in file:
        print(json.dumps(validator.is_valid(json.loads(line))))
