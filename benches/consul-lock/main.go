// Command consul-lock is one process of a run of lock-bench on the side `api-lock`: Go's api.Lock, as its documents
// show it, with a session for each claim.
package main

import (
	"context"
	"strings"

	"distributed-lock/benches/worker"

	"github.com/hashicorp/consul/api"
)

func main() {
	worker.Run(func(job *worker.Job) worker.Client {
		client, err := api.NewClient(&api.Config{Address: strings.TrimPrefix(job.URL, "consul://")})
		worker.Must(err)
		return worker.Client{
			Lock: func(ctx context.Context, key string) (func(), error) {
				lock, err := client.LockOpts(&api.LockOptions{
					Key:        "lock:" + key + "/.lock",
					SessionTTL: worker.TTL.String(),
				})
				if err != nil {
					return nil, err
				}
				lost, err := lock.Lock(ctx.Done())
				if err != nil {
					return nil, err
				}
				if lost == nil {
					return nil, ctx.Err()
				}
				return func() { worker.Must(lock.Unlock()) }, nil
			},
		}
	})
}
