// What locks of the package redis-semaphore do where ours must do better:
// scripts/failures-of-peers.
//
//   node semaphore.mjs transfers PORT   two who want the same two locks, in both orders
//   node semaphore.mjs hold PORT        holds the only permit, says so, and ends when its input does
//   node semaphore.mjs try PORT         tries to get that permit
import Redis from 'ioredis'
import { Mutex, Semaphore } from 'redis-semaphore'

const [what, port] = process.argv.slice(2)
const client = new Redis(Number(port))
const ms = (time) => new Promise((done) => setTimeout(done, time))
// Longer than any hold here, and shorter than a minute.
const permit = () => new Semaphore(client, 'permit', 1, { lockTimeout: 20_000, acquireTimeout: 1_000 })

async function transfer(from, to) {
  const options = { lockTimeout: 20_000, acquireTimeout: 1_500 }
  const [one, other] = [new Mutex(client, from, options), new Mutex(client, to, options)]
  await one.acquire()
  try {
    await ms(20)
    await other.acquire()
    await other.release()
  } finally {
    await one.release()
  }
}

if (what === 'transfers') {
  let stuck = 0
  for (let round = 0; round < 5; round++) {
    const [a, b] = [`a${round}`, `b${round}`]
    const outcomes = await Promise.allSettled([transfer(a, b), transfer(b, a)])
    stuck += outcomes.some((outcome) => outcome.status === 'rejected') ? 1 : 0
  }
  console.log(stuck)
} else if (what === 'hold') {
  await permit().acquire()
  console.log('held')
  process.stdin.resume()
  await new Promise((done) => process.stdin.on('end', done))
} else {
  console.log((await permit().tryAcquire()) ? 'got it too' : 'refused')
}
process.exit(0)
