"""What Flower loads of a job: the two apps of flip_fl, pointed to the app's folder."""
