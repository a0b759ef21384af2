module distributed-lock/benches/worker

go 1.19

require golang.org/x/sys v0.1.0
