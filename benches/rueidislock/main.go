// Command rueidislock is one process of a run of lock-bench on the side `rueidislock`.
package main

import (
	"context"

	"distributed-lock/benches/worker"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
)

func main() {
	worker.Run(func(job *worker.Job) worker.Client {
		option, err := rueidis.ParseURL(job.URL)
		worker.Must(err)
		locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
			ClientOption:   option,
			KeyMajority:    1,
			KeyValidity:    worker.TTL,
			NoLoopTracking: job.NoLoop,
		})
		worker.Must(err)
		client := worker.Client{
			Lock: func(ctx context.Context, key string) (func(), error) {
				_, release, err := locker.WithContext(ctx, key)
				return release, err
			},
		}
		if job.Section == "redis" {
			redis, err := rueidis.NewClient(option)
			worker.Must(err)
			client.Stay = func() {
				for _, command := range []string{"INCR", "DECR"} {
					asked := redis.B().Arbitrary(command).Keys("bench:section").Build()
					worker.Must(redis.Do(context.Background(), asked).Error())
				}
			}
		}
		return client
	})
}
