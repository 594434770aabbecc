using System;
using System.Collections.Generic;
using UnityEngine;
using static Everscene.Play.Player;

namespace Everscene.Play
{
    /// <summary>EversceneEvents: what makes it send, and what does not.</summary>
    static class EventsPlay
    {
        static EversceneStream stream;
        static EversceneEvents events;
        static readonly List<string> Sent = new List<string>();

        static Action[] Make(string[] arguments, params EventBinding[] bindings)
        {
            var game = new GameObject("game");
            stream = game.AddComponent<EversceneStream>();
            Set(stream, "endpoint", arguments[1]);
            stream.ReceiptChanged += receipt =>
            {
                if (receipt.State == ReceiptState.Accepted || receipt.State == ReceiptState.Rejected) Sent.Add(receipt.Name);
            };
            events = game.AddComponent<EversceneEvents>();
            events.Bindings.AddRange(bindings);
            return new[] { UpdateOf(stream), UpdateOf(events) };
        }

        static Action[] Begin(string[] arguments, params EventBinding[] bindings)
        {
            Action[] updates = Make(arguments, bindings);
            Call(stream, "OnEnable");
            Until(() => stream.IsConnected, "a connection", updates[0]);
            Call(events, "OnEnable");
            return updates;
        }

        static void Expect(Action[] updates, params string[] names)
        {
            Until(() => Sent.Count >= names.Length, string.Join(", ", names), updates);
            Frames(30, updates);
            Must(string.Join(",", Sent) == string.Join(",", names), "sent " + string.Join(",", Sent));
        }

        public static void Triggers(string[] arguments)
        {
            Action[] updates = Begin(arguments,
                new EventBinding { trigger = EventTrigger.TriggerEnter, eventName = "storm", otherTag = "Player" },
                new EventBinding { trigger = EventTrigger.TriggerExit, eventName = "calm" },
                new EventBinding { trigger = EventTrigger.Enabled, eventName = "night" });
            Must(ReferenceEquals(events.Stream, stream), "it finds the stream");
            Call(events, "OnTriggerEnter", new Collider { tag = "Enemy" });
            Call(events, "OnTriggerEnter", new Collider { tag = "Player" });
            Call(events, "OnTriggerExit", new Collider { tag = "Enemy" });
            Expect(updates, "night", "storm", "calm");
        }

        public static void EnabledBeforeTheStream(string[] arguments)
        {
            Action[] updates = Make(arguments, new EventBinding { trigger = EventTrigger.Enabled, eventName = "night" });
            Call(events, "OnEnable");
            Call(stream, "OnEnable");
            Expect(updates, "night");
            var order = (DefaultExecutionOrder)Attribute.GetCustomAttribute(typeof(EversceneStream), typeof(DefaultExecutionOrder));
            Must(order.order < 0, "in one scene the stream comes first");
        }

        public static void Rest(string[] arguments)
        {
            Action[] updates = Begin(arguments, new EventBinding { eventName = "birds", rest = 1 });
            events.Send("birds");
            events.Send("birds");
            Expect(updates, "birds");
            Time.unscaledTime += 1;
            events.Send("birds");
            events.Send("meteor"); // has no binding: it is sent as it is
            Expect(updates, "birds", "birds", "meteor");
        }

        public static void AnimatorStates(string[] arguments)
        {
            var animator = new Animator();
            Action[] updates = Begin(arguments,
                new EventBinding { trigger = EventTrigger.AnimatorState, eventName = "night", animator = animator, animatorState = "Sleep" });
            Frames(5, updates);
            animator.Now = new AnimatorStateInfo { shortNameHash = Animator.StringToHash("Sleep") };
            Expect(updates, "night");
            animator.Now = new AnimatorStateInfo();
            Frames(5, updates);
            animator.Now = new AnimatorStateInfo { shortNameHash = Animator.StringToHash("Sleep") };
            Expect(updates, "night", "night");
        }

        public static void Values(string[] arguments)
        {
            Action[] updates = Begin(arguments,
                new EventBinding { trigger = EventTrigger.Value, eventName = "storm", valueParam = "intensity", valueStep = 0.3f, rest = 0.2f });
            Frames(5, updates);
            Must(Sent.Count == 0, "nothing is sent before there is a value");
            events.SetValue(0.5f);
            Expect(updates, "storm");
            events.SetValue(0.6f); // too near: it is sent when it has come to rest
            Frames(20, updates);
            Must(Sent.Count == 1, "a small step waits");
            Frames(100, updates);
            Must(Sent.Count == 2, "where it stops is sent");
            Frames(100, updates);
            Must(Sent.Count == 2, "and only once");
            Must(stream.Prompt.Contains("storm"), stream.Prompt);
        }

        public static void MistakesAreTold(string[] arguments)
        {
            Action[] updates = Begin(arguments);
            events.Send("avalanche");
            Until(() => Debug.Said.Count > 0, "a warning", updates);
            Must(Debug.Said[0].Contains("avalanche"), Debug.Said[0]);
            events.Stream = null;
            events.Send("storm");
            Must(Debug.Said[1].Contains("no stream"), Debug.Said[1]);
        }
    }
}
