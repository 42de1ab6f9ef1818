from hflm.cli import main

main()
