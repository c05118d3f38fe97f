from iqa_jax.commands import main

if __name__ == "__main__":
    main()
