"""The numbers behind the figures of a report: pure functions of rates, losses and steps."""
