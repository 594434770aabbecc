using UnityEngine;

namespace Everscene
{
    /// <summary>
    /// Sends events of the scene without code: when something enters a trigger, when an animator reaches a state, when a
    /// value moves, or when a UnityEvent calls <see cref="Send"/>. This half holds the life; the other the bindings.
    /// </summary>
    [AddComponentMenu("Everscene/Everscene Events")]
    public sealed partial class EversceneEvents : MonoBehaviour
    {
        bool enabledIsDue;

        // A stream that loads after us runs at the first Update only: what is sent before that would be lost.
        void OnEnable()
        {
            PrepareBindings();
            enabledIsDue = stream == null || stream.Client == null;
            if (!enabledIsDue) Fire(EventTrigger.Enabled, null);
        }

        void OnDisable()
        {
            enabledIsDue = false;
            Fire(EventTrigger.Disabled, null);
        }

        void OnTriggerEnter(Collider other) => Fire(EventTrigger.TriggerEnter, other);

        void OnTriggerExit(Collider other) => Fire(EventTrigger.TriggerExit, other);

        void OnCollisionEnter(Collision collision) => Fire(EventTrigger.CollisionEnter, collision.collider);

        void OnTriggerEnter2D(Collider2D other) => Fire(EventTrigger.TriggerEnter, other);

        void OnTriggerExit2D(Collider2D other) => Fire(EventTrigger.TriggerExit, other);

        void OnCollisionEnter2D(Collision2D collision) => Fire(EventTrigger.CollisionEnter, collision.collider);

        void Update()
        {
            if (enabledIsDue) FireLate();
            float now = Time.unscaledTime;
            for (int i = 0; i < bindings.Count; i++)
            {
                EventBinding binding = bindings[i];
                if (binding.trigger == EventTrigger.AnimatorState && binding.HasEnteredState()) Send(binding, now);
                else if (binding.trigger == EventTrigger.Value && binding.HasValueToSend(now)) Send(binding, now);
            }
        }

        void FireLate()
        {
            enabledIsDue = false;
            if (stream == null) stream = FindStream();
            Fire(EventTrigger.Enabled, null);
        }

        void PrepareBindings()
        {
            if (stream == null) stream = FindStream();
            foreach (EventBinding binding in bindings) binding.Prepare();
        }

        // Only when none is set, and not in every Update: the one stream of a simple scene.
        EversceneStream FindStream()
        {
            var beside = GetComponentInParent<EversceneStream>();
            if (beside != null) return beside;
#if UNITY_2023_1_OR_NEWER
            return FindFirstObjectByType<EversceneStream>();
#else
            return FindObjectOfType<EversceneStream>();
#endif
        }

        void Fire(EventTrigger trigger, Component other)
        {
            float now = Time.unscaledTime;
            foreach (EventBinding binding in bindings)
            {
                if (binding.trigger != trigger) continue;
                bool fits = other == null || string.IsNullOrEmpty(binding.otherTag) || other.CompareTag(binding.otherTag);
                if (fits && binding.IsRested(now)) Send(binding, now);
            }
        }

        void Send(EventBinding binding, float now)
        {
            binding.MarkSent(now);
            if (stream == null)
            {
                Debug.LogWarning("Everscene Events on " + name + " has no stream: '" + binding.eventName + "' is not sent.", this);
                return;
            }
            Watch(stream.SendEvent(binding.eventName, binding.when, binding.MakeParams()));
        }

        // What a scene does not know is a mistake in the set-up: the Console should say so.
        async void Watch(Receipt sent)
        {
            Receipt receipt = await sent;
            if (receipt.State == ReceiptState.Rejected) Debug.LogWarning("Everscene: " + receipt, this);
        }
    }
}
