// Sends the events of events.json by the CloudEvents SDK for Go: go run . BROKERS TOPIC
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strings"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

func main() {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	sender, err := kafka_sarama.NewSender([]string{os.Args[1]}, config, os.Args[2])
	check(err)
	client, err := cloudevents.NewClient(sender)
	check(err)
	text, err := os.ReadFile("events.json")
	check(err)
	var events map[string]cloudevents.Event
	check(json.Unmarshal(text, &events))
	for form, event := range events {
		ctx := binding.WithForceBinary(context.Background())
		if strings.HasPrefix(form, "structured") {
			ctx = binding.WithForceStructured(context.Background())
		}
		data := event.Data()
		if strings.HasSuffix(form, "bytes") {
			check(event.SetData(cloudevents.ApplicationJSON, data))
		} else {
			check(event.SetData(cloudevents.ApplicationJSON, json.RawMessage(data)))
		}
		if result := client.Send(ctx, event); cloudevents.IsUndelivered(result) {
			log.Fatal(result)
		}
	}
	check(sender.Close(context.Background()))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
