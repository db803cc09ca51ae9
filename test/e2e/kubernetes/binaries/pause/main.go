// Command pause does nothing until it is told to end: what keeps the namespaces of a pod, and the pods of
// tests that only need a volume.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	<-told
}
