// Workers of node's cluster that run one program: node cluster.js PROGRAM COUNT. Says `listening PID` of each that accepts.

import cluster from 'node:cluster'

const [, , exec = '', count = '2'] = process.argv
cluster.setupPrimary({ exec })
cluster.on('listening', ({ process: { pid } }) => console.log(`listening ${pid}`))
for (let number = 0; number < Number(count); number += 1) cluster.fork()
