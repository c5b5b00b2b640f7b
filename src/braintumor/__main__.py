"""`python -m braintumor`: the command line."""

from braintumor.cli.main import script

if __name__ == "__main__":
    script()
