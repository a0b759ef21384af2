module distributed-lock/benches/rueidislock

go 1.25.0

require (
	distributed-lock/benches/worker v0.0.0
	github.com/redis/rueidis v1.0.79
)

require golang.org/x/sys v0.47.0 // indirect

replace distributed-lock/benches/worker => ../worker
