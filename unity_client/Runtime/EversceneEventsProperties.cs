using System.Collections.Generic;
using UnityEngine;

namespace Everscene
{
    public sealed partial class EversceneEvents
    {
        [SerializeField, Tooltip("Empty: the stream on this object or above it, else the first in the scene.")]
        EversceneStream stream;
        [SerializeField] List<EventBinding> bindings = new List<EventBinding>();

        public EversceneStream Stream { get => stream; set => stream = value; }
        public List<EventBinding> Bindings => bindings;

        /// <summary>For UnityEvents: sends this event, with the params of its binding if it has one.</summary>
        public void Send(string eventName)
        {
            float now = Time.unscaledTime;
            foreach (EventBinding binding in bindings)
            {
                if (binding.eventName != eventName) continue;
                if (binding.IsRested(now)) Send(binding, now);
                return;
            }
            Send(new EventBinding { eventName = eventName }, now);
        }

        /// <summary>For UnityEvents: sends a whole prompt.</summary>
        public void SendPrompt(string text)
        {
            if (stream != null) Watch(stream.SendPrompt(text));
        }

        /// <summary>
        /// For UnityEvents with a number, such as a slider's or a health bar's: every binding that waits for a value takes it,
        /// and sends when it has moved far enough and rested long enough; where it comes to a stop is sent in any case.
        /// </summary>
        public void SetValue(float value)
        {
            foreach (EventBinding binding in bindings) binding.SetValue(value, Time.unscaledTime);
        }
    }
}
