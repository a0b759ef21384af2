// Command etcd-mutex is one process of a run of lock-bench on the side `mutex`: Go's concurrency.Mutex, with one session.
package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"distributed-lock/benches/worker"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func main() {
	worker.Run(func(job *worker.Job) worker.Client {
		client, err := clientv3.New(clientv3.Config{
			Endpoints:   strings.Split(strings.TrimPrefix(job.URL, "etcd://"), ","),
			DialTimeout: 5 * time.Second,
		})
		worker.Must(err)
		session, err := concurrency.NewSession(client, concurrency.WithTTL(int(worker.TTL.Seconds())))
		worker.Must(err)
		// The mutexes of a session do not exclude one another, so the tasks of a process have one besides.
		var locals sync.Map
		return worker.Client{
			Lock: func(ctx context.Context, key string) (func(), error) {
				found, _ := locals.LoadOrStore(key, new(sync.Mutex))
				local := found.(*sync.Mutex)
				local.Lock()
				mutex := concurrency.NewMutex(session, "lock:"+key)
				if err := mutex.Lock(ctx); err != nil {
					local.Unlock()
					return nil, err
				}
				return func() {
					worker.Must(mutex.Unlock(context.Background()))
					local.Unlock()
				}, nil
			},
		}
	})
}
