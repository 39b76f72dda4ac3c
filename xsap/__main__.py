"""`python -m xsap`: the same as the command `xsap`."""

from xsap.cli import main

if __name__ == "__main__":
    main()
