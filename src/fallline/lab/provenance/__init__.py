"""The versions, data and machine with which a study ran, and checks that a trial still runs with them."""
