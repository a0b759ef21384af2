// Command etcd-mutex is one process of a run of lock-bench on the side `mutex`: Go's
// concurrency.Mutex, with one session; or on the side `etcd-raw`: the transactions of ours on a
// lock that nobody else wants, and nothing else.
package main

import (
	"context"
	"fmt"
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
		if job.Side == "etcd-raw" {
			return worker.Client{Lock: raw(client, session.Lease(), job.Process)}
		}
		// The mutexes of a session do not exclude one another, so the tasks of a process have one
		// besides.
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

// The two transactions of a pair (lock-etcd/src/txns.rs), with names as long as ours, each of which
// is new.
func raw(client *clientv3.Client, lease clientv3.LeaseID, process int) func(context.Context, string) (func(), error) {
	var mutex sync.Mutex
	last := 0
	return func(ctx context.Context, key string) (func(), error) {
		mutex.Lock()
		last++
		owner := fmt.Sprintf("00000000-0000-4000-8000-000000000000-%d-%020d", process, last)
		mutex.Unlock()
		lock := "lock:" + key
		claim, gone := lock+"/"+owner, lock+"%gone/"+owner
		contenders := func(order clientv3.SortOrder, limit int64) clientv3.Op {
			sort := clientv3.WithSort(clientv3.SortByCreateRevision, order)
			return clientv3.OpGet(lock+"/", clientv3.WithRange(lock+"0"), sort, clientv3.WithLimit(limit))
		}
		oldest, youngest := contenders(clientv3.SortAscend, 1), contenders(clientv3.SortDescend, 2)
		answer, err := client.Txn(ctx).
			If(absent(gone), absent(claim)).
			Then(clientv3.OpPut(claim, "lock-etcd 1 30", clientv3.WithLease(lease)), oldest, youngest).
			Else(clientv3.OpGet(claim), oldest, youngest).
			Commit()
		if err != nil {
			return nil, err
		}
		created := answer.Header.Revision
		first := answer.Responses[1].GetResponseRange().Kvs
		if !answer.Succeeded || len(first) != 1 || first[0].CreateRevision != created {
			return nil, fmt.Errorf("the lock is not free")
		}
		return func() {
			answer, err := client.Txn(context.Background()).
				If(clientv3.Compare(clientv3.CreateRevision(claim), "=", created)).
				Then(clientv3.OpDelete(claim)).
				Else(clientv3.OpGet(claim)).
				Commit()
			worker.Must(err)
			if !answer.Succeeded {
				worker.Must(fmt.Errorf("the lock was not held when it was released"))
			}
		}, nil
	}
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}
