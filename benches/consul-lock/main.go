// Command consul-lock is one process of a run of lock-bench on the side `api-lock`: Go's api.Lock,
// as its documents show it, with a session for each claim; or on the side `bare`: the transactions
// of ours on a lock that nobody else wants, and nothing else.
package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"distributed-lock/benches/worker"

	"github.com/hashicorp/consul/api"
)

func main() {
	worker.Run(func(job *worker.Job) worker.Client {
		client, err := api.NewClient(&api.Config{Address: strings.TrimPrefix(job.URL, "consul://")})
		worker.Must(err)
		if job.Side == "bare" {
			return worker.Client{Lock: bare(client, job.Process)}
		}
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
					return nil, context.Canceled
				}
				return func() { worker.Must(lock.Unlock()) }, nil
			},
		}
	})
}

// The two transactions of a pair (lock-consul/src/entering.rs, ending.rs), with names as long as
// ours, each of which is new, and a session for each lock, which ours keeps from claim to claim as
// well.
func bare(client *api.Client, process int) func(context.Context, string) (func(), error) {
	var mutex sync.Mutex
	sessions, last := map[string]string{}, 0
	return func(_ context.Context, key string) (func(), error) {
		mutex.Lock()
		last++
		owner := fmt.Sprintf("00000000-0000-4000-8000-000000000000-%d-%020d", process, last)
		session := sessions[key]
		mutex.Unlock()
		if session == "" {
			made, _, err := client.Session().Create(&api.SessionEntry{TTL: worker.TTL.String()}, nil)
			if err != nil {
				return nil, err
			}
			session = made
			mutex.Lock()
			sessions[key] = session
			mutex.Unlock()
		}
		name := "lock:" + key
		lock, queue := name+"/.lock", name+"/.queue"
		taken, err := txn(client,
			api.KVTxnOp{Verb: api.KVCheckNotExists, Key: name + "%gone/" + owner},
			api.KVTxnOp{Verb: api.KVCheckNotExists, Key: queue},
			api.KVTxnOp{Verb: api.KVCheckNotExists, Key: lock},
			api.KVTxnOp{
				Verb: api.KVLock, Key: lock, Session: session, Flags: api.LockFlagValue,
				Value: []byte("lock-consul 1 30000 0 " + owner),
			})
		if err != nil {
			return nil, err
		}
		index := taken.Results[len(taken.Results)-1].KV.ModifyIndex
		return func() {
			_, err := txn(client,
				api.KVTxnOp{Verb: api.KVCheckNotExists, Key: queue},
				api.KVTxnOp{Verb: api.KVCheckIndex, Key: lock, Index: index},
				api.KVTxnOp{Verb: api.KVDeleteCAS, Key: lock, Index: index})
			worker.Must(err)
		}, nil
	}
}

func txn(client *api.Client, kvs ...api.KVTxnOp) (*api.TxnResponse, error) {
	var ops api.TxnOps
	for i := range kvs {
		ops = append(ops, &api.TxnOp{KV: &kvs[i]})
	}
	done, answer, _, err := client.Txn().Txn(ops, nil)
	if err == nil && !done {
		err = fmt.Errorf("a transaction was not done: %v", answer.Errors)
	}
	return answer, err
}
