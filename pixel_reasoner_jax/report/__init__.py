"""What people look at: pages, charts, pictures and tables of figures and trajectories. Presentation only."""
