// Command redsync is one process of a run of lock-bench on the side `redsync`.
package main

import (
	"context"
	"fmt"
	"strings"

	"distributed-lock/benches/worker"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

func main() {
	worker.Run(func(job *worker.Job) worker.Client {
		var pools []redsyncredis.Pool
		for _, url := range strings.Split(job.URL, ",") {
			options, err := redis.ParseURL(url)
			worker.Must(err)
			pools = append(pools, goredis.NewPool(redis.NewClient(options)))
		}
		locks := redsync.New(pools...)
		return worker.Client{
			// It gives up after 32 tries; then it is asked again.
			Lock: func(ctx context.Context, key string) (func(), error) {
				for {
					mutex := locks.NewMutex(key, redsync.WithExpiry(worker.TTL))
					if err := mutex.LockContext(ctx); err == nil {
						return func() {
							if ok, err := mutex.Unlock(); !ok {
								worker.Must(fmt.Errorf("the lock was not held when it was released: %w", err))
							}
						}, nil
					}
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
				}
			},
		}
	})
}
